"""Files whose names changed on the way to a manifest: found where the Unicode form differs, else pointed to."""

import json
import os
import sys
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import boto3
import pytest
import soundfile
from pyarrow import fs

from pipeline.catalogue.manifest import Track, read_manifest, resolve_unicode_forms
from pipeline.catalogue.probe import ProbeCache, probe, probe_all
from pipeline.catalogue.table_reader import ManifestError
from pipeline.metrics.spec import MetricsSpec
from pipeline.planning.external_covers import read_pairs
from pipeline.results.writer import as_table
from pipeline.storage.similar_files import FolderListings, MissingFileError, NearbyFiles, resolve_unicode_form
from pipeline.storage.store import absolute, locate, open_store
from pipeline.worker.error_rows import outcome
from pipeline.workflows.measure import CoverGroup, measure_group
from tests.conftest import melody, tone
from tests.s3_server import S3Server

pytestmark = pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="its file systems fold names")
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Café.wav") for form in ("NFC", "NFD"))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket="songs")
    yield "s3://songs/in"
    server.stop()


def touch(folder: str, *names: str) -> None:
    store = open_store(folder)
    for name in names:
        store.write(name, b"x")


def track_of(folder: str, **row: str) -> Track:
    store = open_store(folder)
    store.write("m.jsonl", json.dumps({"track_id": "a", "caption": "jazz"} | row).encode())
    (track,) = resolve_unicode_forms(read_manifest(f"{folder}/m.jsonl"))
    assert isinstance(track, Track)
    return track


@pytest.mark.parametrize(("asked", "there"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_another_unicode_form_is_the_same_file(tmp_path: Path, asked: str, there: str) -> None:
    touch(str(tmp_path), f"deep/{there}.d/sub/{there}", there)
    track = track_of(str(tmp_path), source=asked, reference_audio=f"deep/{asked}.d/sub/{asked}")
    assert track.source == f"{tmp_path}/{there}"
    assert track.reference == f"{tmp_path}/deep/{there}.d/sub/{there}"
    assert (
        resolve_unicode_form(f"{tmp_path}/{asked}")
        == resolve_unicode_form(f"file://{tmp_path}/{asked}")
        == f"{tmp_path}/{there}"
    )


def test_the_very_name_comes_first_and_two_others_are_not_chosen_from(tmp_path: Path) -> None:
    marks = "e\u0323\u0302", "e\u0302\u0323", "\u1ec7"  # one letter with two marks, written in three ways
    touch(str(tmp_path), *(f"{mark}.wav" for mark in marks[:2]))
    assert resolve_unicode_form(f"{tmp_path}/{marks[0]}.wav") == f"{tmp_path}/{marks[0]}.wav"
    with pytest.raises(MissingFileError, match="differs in Unicode form"):
        resolve_unicode_form(f"{tmp_path}/{marks[2]}.wav")


def test_a_manifest_by_another_form_of_its_name(tmp_path: Path) -> None:
    (tmp_path / f"{DECOMPOSED}.csv").write_text("track_id,source,caption\na,a.wav,jazz\n")
    (track,) = read_manifest(f"{tmp_path}/{COMPOSED}.csv")
    assert isinstance(track, Track)
    with pytest.raises(ManifestError, match=r"no such file; there is '.*, which differs in case"):
        list(read_manifest(f"{tmp_path}/{COMPOSED}.CSV"))


@pytest.mark.parametrize(
    ("asked", "there", "difference"),
    [
        ("song.wav", "Song.WAV", "case"),
        (COMPOSED.upper(), DECOMPOSED, "case"),
        ("STRASSE.wav", "Straße.wav", "case"),
        ("song.wav ", "song.wav", "spaces"),
        (" song.wav", "song.wav", "spaces"),
        ("my  song.wav", "my\u00a0song.wav", "spaces"),
        ("my_song.wav", "My Song.wav", "punctuation"),
        ("Don't Stop.wav", "Don\u2019t Stop.wav", "punctuation"),
        ("a\u2013b.wav", "a-b.wav", "punctuation"),
        ("Cafe.wav", COMPOSED, "accents"),
        ("cafe_.wav", DECOMPOSED, "accents"),
        ("Ágætis Byrjun.wav", "agætis byrjun.wav", "accents"),
        ("my%20song.wav", "my song.wav", "percent signs"),
        ("my song.wav", "my%20song.wav", "percent signs"),
        ("CafÃ©.wav", DECOMPOSED, "the encoding of the name"),
        (COMPOSED, "CafÃ©.wav", "the encoding of the name"),
        ("Ágætis byrjun.wav", "Ã\x81gÃ¦tis byrjun.wav", "the encoding of the name"),
        ("Schwarz-weiß.wav", "Schwarz-wei├ƒ.wav", "the encoding of the name"),
        ("санузел.wav", "╤ü╨░╨╜╤â╨╖╨╡╨╗.wav", "the encoding of the name"),
        ("song.wav", "song.flac", "the extension"),
        ("sub\\song.wav", "sub/song.wav", "backslashes"),
        ("Brian Tyler\\Far Cry 3 (OST)\\1-01.mp3", "Brian Tyler/Far Cry 3 (OST)/1-01.mp3", "backslashes"),
        ("Sub\\Song.wav", "sub/song.wav", "backslashes"),
        ("SUB/song.wav", "sub/song.wav", "case"),
        ("Sub /other.wav", "sub/OTHER.wav", "spaces"),
    ],
)
def test_what_is_like_a_name_is_pointed_to_and_not_taken(
    tmp_path: Path, asked: str, there: str, difference: str
) -> None:
    touch(str(tmp_path), there, "something else.wav")
    near = FolderListings().near(f"{tmp_path}/{asked}")
    assert near.uri is None
    assert repr(there.rpartition("/")[2])[1:] in near.hint
    assert near.hint.endswith(f"differs in {difference}")
    found = probe_all([f"{tmp_path}/{asked}"])[f"{tmp_path}/{asked}"]
    assert found.error_kind == "missing_file"
    assert near.hint in (found.error or "")


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("none.wav", ""),
        ("gone/none.wav", "there is no folder '{folder}/gone'"),
        ("gone/and/none.wav", "there is no folder '{folder}/gone'"),
        ("song.wav/none.wav", "there is no folder '{folder}/song.wav'"),
        ("C:\\Music\\song.wav", "a path of Windows names no file on this machine"),
        ("nul\0.wav", ""),
        ("x" * 300 + ".wav", ""),
        ("...", ""),
    ],
)
def test_where_nothing_is_alike(tmp_path: Path, asked: str, hint: str) -> None:
    touch(str(tmp_path), "song.wav")
    assert FolderListings().near(f"{tmp_path}/{asked}").hint == hint.format(folder=tmp_path)


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("SUB/none.wav", "there is no folder '{folder}/SUB'; there is 'sub', which differs in case"),
        ("sub/Cafe/none.wav", "there is no folder '{folder}/sub/Cafe'; there is 'Café', which differs in accents"),
        ("SUB/café/none.wav", "there is no folder '{folder}/SUB'; there is 'sub', which differs in case"),
        ("song/none.wav", "there is no folder '{folder}/song'"),
    ],
)
def test_a_misspelt_folder_is_pointed_to_without_the_file(tmp_path: Path, asked: str, hint: str) -> None:
    touch(str(tmp_path), "song.wav", "sub/Café/other.wav")
    assert FolderListings().near(f"{tmp_path}/{asked}") == NearbyFiles(hint=hint.format(folder=tmp_path))


def test_a_folder_that_cannot_be_listed_is_not_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: str) -> list[str]:
        raise PermissionError(folder)

    monkeypatch.setattr(os, "listdir", refuse)
    assert FolderListings().near(f"{tmp_path}/{COMPOSED}") == NearbyFiles()


def test_a_listing_that_takes_too_long_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(fs.FileSystemHandler):  # type: ignore[misc]
        asked: ClassVar[list[str]] = []

        def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
            return [fs.FileInfo(path, fs.FileType.Directory) for path in paths]

        def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
            self.asked.append(selector.base_dir)
            time.sleep(0.5)
            return []

    monkeypatch.setattr(Slow, "__abstractmethods__", frozenset())
    monkeypatch.setattr("pipeline.storage.similar_files.LISTING_S", 0.05)
    monkeypatch.setattr("pipeline.storage.similar_files.locate", lambda uri: (slow, uri))
    slow = fs.PyFileSystem(Slow())
    folders = FolderListings()
    assert [folders.near(f"songs/{k}/x.wav") for k in range(5)] == [NearbyFiles()] * 5
    assert Slow.asked == ["songs/0"]


def test_several_are_counted(tmp_path: Path) -> None:
    touch(str(tmp_path), "a.wav", "A.wav", "a.WAV", "A.WAV", "B.wav")
    near = FolderListings().near(f"{tmp_path}/a.Wav")
    assert (near.uri, near.hint) == (None, "there is 'A.WAV', 'A.wav', 'a.WAV' and 1 more, which differs in case")


def test_a_name_that_is_not_utf8_is_told_of(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/Caf\xe9.wav"))).write_bytes(b"x")
    assert "'Caf\\udce9.wav', whose name is not UTF-8" in FolderListings().near(f"{tmp_path}/{COMPOSED}").hint


def test_a_folder_is_listed_once_for_all_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(str(tmp_path), *(f"Song {k}.wav" for k in range(100)))
    listed, real = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: listed.append(folder) or real(folder))
    found = probe_all([f"{tmp_path}/song {k}.wav" for k in range(100)])
    assert all("differs in case" in (look.error or "") for look in found.values())
    assert listed == [str(tmp_path)]


def test_who_asks_for_a_single_file_learns_no_other_names(tmp_path: Path) -> None:
    """The service answers strangers."""
    touch(str(tmp_path), "Song.wav")
    assert probe(f"{tmp_path}/song.wav").error == f"{tmp_path}/song.wav: no such file"


def test_files_on_an_object_store(bucket: str) -> None:
    touch(bucket, f"{DECOMPOSED}/{DECOMPOSED}", "Song.WAV", "a #1 100%25.wav", "what?.wav")
    track = track_of(bucket, source=f"{COMPOSED}/{COMPOSED}", reference_audio="a #1 100%25.wav")
    for uri, key in ((track.source, f"{DECOMPOSED}/{DECOMPOSED}"), (track.reference, "a #1 100%25.wav")):
        filesystem, path = locate(uri or "")
        assert path == f"songs/in/{key}"
        assert filesystem.get_file_info(path).size == 1
    assert locate(absolute("what?.wav", f"{bucket}/m.csv?region=us-east-1"))[1] == "songs/in/what?.wav"
    encoded = f"{bucket}/Caf%C3%A9.wav/{COMPOSED}?region=us-east-1"
    assert FolderListings().actual([encoded]) == {encoded: f"{bucket}/{DECOMPOSED}/{DECOMPOSED}?region=us-east-1"}
    found = probe_all([f"{bucket}/song.wav", f"{bucket}/gone/x.wav"])
    assert "there is 'Song.WAV', which differs in case" in (found[f"{bucket}/song.wav"].error or "")
    assert "there is no folder 'songs/in/gone'" in (found[f"{bucket}/gone/x.wav"].error or "")


def test_a_found_file_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / DECOMPOSED, tone(0.5), 48_000)
    track, store = track_of(str(tmp_path), source=COMPOSED), open_store(str(tmp_path / "out"))
    first = ProbeCache(store, "1").of([track.source])
    monkeypatch.setattr("pipeline.catalogue.probe.probe", None)
    assert ProbeCache(store, "2").of([track.source]) == first


def test_a_missing_file_is_a_kind_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError) as raised:
        resolve_unicode_form(f"{tmp_path}/none.wav")
    assert outcome(raised.value)["error_kind"] == "missing_file"


def test_pairs_are_found_and_pointed_to_like_sources(tmp_path: Path) -> None:
    soundfile.write(tmp_path / DECOMPOSED, melody(6.0), 48_000)
    soundfile.write(tmp_path / "Cover.wav", melody(6.0, seed=1), 48_000)
    lines = [
        "source,output,track_id",
        *(f"{COMPOSED},{name},a" for name in ("Cover.wav", "cover.wav", DECOMPOSED)),
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    rows = as_table(read_pairs(f"{tmp_path}/pairs.csv")).to_pylist()
    good, missing, copy = measure_group(
        CoverGroup(open_store(str(tmp_path / "out")), rows, MetricsSpec(), "cpu", 600.0, listed=True)
    )
    for row, cover in ((good, "Cover.wav"), (copy, DECOMPOSED)):
        assert (row["status"], row["source"], row["audio_path"]) == (
            "ok",
            f"{tmp_path}/{DECOMPOSED}",
            f"{tmp_path}/{cover}",
        )
    assert (missing["status"], missing["error_kind"]) == ("failed", "missing_file")
    assert "there is 'Cover.wav', which differs in case" in missing["error_message"]


def test_names_that_begin_with_a_tilde_are_relative(tmp_path: Path) -> None:
    assert absolute("~song.wav", f"{tmp_path}/m.csv") == f"{tmp_path}/~song.wav"
    assert absolute("~/song.wav", f"{tmp_path}/m.csv") == "~/song.wav"
