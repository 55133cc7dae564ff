"""What a service may be made to read, and what it answers."""

import contextlib
import hashlib
import io
import json
import os
import sys
import threading
import time
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import httpx
import numpy as np
import pytest
import soundfile

from pipeline.service.config import Access, Limits
from pipeline.service.problem_details import ProblemError
from pipeline.service.safe_open import open_beneath
from pipeline.service.source_access import admit, find, upload
from pipeline.service.uploads import UploadStore
from pipeline.storage.audio_files import load
from pipeline.storage.read_timeout import MAX_HUNG
from pipeline.storage.store import open_store
from tests.conftest import tone
from tests.pipeline.service.conftest import Served
from tests.refusals import raises
from tests.s3_server import S3Server

LIMITS = Limits(upload_mb=2.0, source_seconds=30.0, fetch_s=1.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a file, a link in it and links out of it; a secret beside it."""
    folder = tmp_path / "music"
    (folder / "sub").mkdir(parents=True)
    soundfile.write(folder / "a.wav", tone(1.0), 48_000)
    soundfile.write(folder / "sub" / "b c%41.wav", tone(1.0), 48_000)
    (tmp_path / "music-secret").mkdir()
    soundfile.write(tmp_path / "music-secret" / "s.wav", tone(1.0), 48_000)
    (folder / "link.wav").symlink_to(folder / "a.wav")
    (folder / "out.wav").symlink_to(tmp_path / "music-secret" / "s.wav")
    (folder / "out").symlink_to(tmp_path / "music-secret")
    (folder / "up").symlink_to("..")
    os.mkfifo(folder / "pipe.wav")
    return folder


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a.wav", 200),
        ("link.wav", 200),
        ("sub/../a.wav", 200),
        ("sub/b c%41.wav", 200),
        ("{root}/a.wav", 200),
        ("absent.wav", 404),
        ("~/a.wav", 404),
        ("a.wav/..%2f..%2fmusic-secret/s.wav", 404),
        ("..\\music-secret\\s.wav", 404),
        ("pipe.wav", 422),
        ("sub", 422),
        ("../music-secret/s.wav", 422),
        ("../music-secret/absent.wav", 422),
        ("sub/../../music-secret/s.wav", 422),
        ("{root}-secret/s.wav", 422),
        ("{root}/../music-secret/s.wav", 422),
        ("out.wav", 422),
        ("out/s.wav", 422),
        ("up/music-secret/s.wav", 422),
        ("up/music/out/s.wav", 422),
        ("/etc/passwd", 422),
        ("/etc/absent", 422),
        ("/proc/self/environ", 422),
        ("/dev/zero", 422),
        ("file://{root}/a.wav", 422),
        ("FILE:///etc/passwd", 422),
        ("s3://bucket/a.wav", 422),
        ("a.wav\0.txt", 422),
        ("\ud800.wav", 422),
        ("a" * 5000, 422),
        ("data:audio/wav;base64,AAAA", 404),
        ("http://127.0.0.1/a.wav", 422),
        ("http://169.254.169.254/latest/meta-data/", 422),
        ("http://[::ffff:169.254.169.254]/", 422),
        ("http://2130706433/", 422),
        ("http://0x7f.1/", 422),
        ("http://user:pw@example.org/a.wav", 422),
        ("http://example.org:0/a.wav", 422),
        ("http://example.org:65536/a.wav", 422),
        ("ftp://example.org/a.wav", 422),
        ("gopher://127.0.0.1:25/x", 422),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_paths_and_addresses(root: Path, uploads: UploadStore, value: str, expected: int) -> None:
    said = value.replace("{root}", str(root))
    access = Access(roots=(str(root),), url_hosts=("example.org",))
    if expected == 200:
        assert admit("src_audio", said, access, LIMITS, uploads).digest
        return
    with pytest.raises(ProblemError) as told:
        admit("src_audio", said, access, LIMITS, uploads)
    assert (told.value.status, told.value.field) == (expected, "src_audio")
    assert "music-secret" not in told.value.message.replace(repr(said), "")
    assert told.value.remedy


def swapped(folder: Path, other: Path) -> None:
    """Put a link to another folder in a folder's place."""
    folder.rename(folder.with_name("kept"))
    folder.symlink_to(other)


@pytest.mark.parametrize("value", ["in/deep/a.wav", "link.wav"])
@pytest.mark.parametrize("what", ["in", "in/deep", "in/deep/a.wav"])
def test_a_link_that_is_set_after_the_check_is_not_followed(
    tmp_path: Path, uploads: UploadStore, value: str, what: str
) -> None:
    for folder, seconds in (("root/in/deep", 1.0), ("secret/deep", 2.0)):
        (tmp_path / folder).mkdir(parents=True)
        soundfile.write(tmp_path / folder / "a.wav", tone(seconds), 48_000)
    root = tmp_path / "root"
    (root / "link.wav").symlink_to("in/deep/a.wav")
    access = Access(roots=(str(root),))
    found = find("src_audio", value, access, uploads.store)
    assert found.root is not None
    before = (root / "in" / "deep" / "a.wav").read_bytes()
    with open_beneath(found.root, found.uri) as file:
        swapped(root / what, tmp_path / "secret" / what[3:])
        assert Path(found.uri).read_bytes() != before
        assert Path(f"/dev/fd/{file.fileno()}").read_bytes() == file.read() == before
    with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
        open_beneath(found.root, found.uri)


def test_a_root_that_does_not_answer_holds_up_no_other(
    tmp_path: Path, root: Path, uploads: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a dead mount, where every call on a name waits for ever."""
    dead, over = str(tmp_path / "dead"), threading.Event()
    truly = os.path.realpath

    def hangs(path: str, **named: Any) -> str:
        if str(path).startswith(dead):
            over.wait(20)
        return truly(path, **named)

    monkeypatch.setattr(os.path, "realpath", hangs)
    limits = replace(LIMITS, source_timeout_s=0.5)
    access = Access(roots=(dead, str(root)))
    try:
        assert admit("src_audio", "a.wav", access, limits, uploads).digest
        began = time.monotonic()
        for _ in range(2 * MAX_HUNG):
            with pytest.raises(ProblemError) as told:
                admit("src_audio", "absent.wav", access, limits, uploads)
            assert (told.value.status, told.value.kind) == (503, "source_timeout")
        # Those that come after a few do not wait again.
        assert time.monotonic() - began < 0.5 * MAX_HUNG + 5
    finally:
        over.set()


def test_a_folder_that_is_swapped_all_the_time_gives_its_own_files_alone(
    tmp_path: Path, uploads: UploadStore
) -> None:
    """What is digested is what was checked, whichever of the two the name leads to."""
    for folder, seconds in (("root/in", 0.2), ("secret", 0.3)):
        (tmp_path / folder).mkdir(parents=True)
        soundfile.write(tmp_path / folder / "a.wav", tone(seconds), 48_000)
    root, over = tmp_path / "root", threading.Event()
    inside = hashlib.sha256((root / "in" / "a.wav").read_bytes()).hexdigest()

    def swap() -> None:
        while not over.is_set():
            swapped(root / "in", tmp_path / "secret")
            (root / "in").unlink()
            (root / "kept").rename(root / "in")

    swapping = threading.Thread(target=swap)
    swapping.start()
    digests, tried = set(), 0
    until = time.monotonic() + 20
    try:
        while (len(digests) < 1 or tried < 150) and time.monotonic() < until:
            tried += 1
            with contextlib.suppress(ProblemError):
                digests.add(admit("src_audio", "in/a.wav", Access(roots=(str(root),)), LIMITS, uploads).digest)
    finally:
        over.set()
        swapping.join()
    assert digests == {inside}


def test_a_root_that_is_written_as_a_file_uri_is_a_folder(root: Path, uploads: UploadStore) -> None:
    access = Access(roots=(root.as_uri(),))
    assert admit("src_audio", "a.wav", access, LIMITS, uploads).digest
    for value in ("out.wav", "out/s.wav", "up/music-secret/s.wav"):
        with pytest.raises(ProblemError) as told:
            admit("src_audio", value, access, LIMITS, uploads)
        assert told.value.kind == "not_allowed"


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="its file systems fold names")
def test_another_unicode_form_of_a_name_opens_no_more_than_the_name(
    tmp_path: Path, root: Path, uploads: UploadStore
) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Café.wav") for form in ("NFC", "NFD"))
    access = Access(roots=(str(root),))
    (root / decomposed).write_bytes((root / "a.wav").read_bytes())
    assert admit("src_audio", composed, access, LIMITS, uploads).uri == str(root / decomposed)
    outside = tmp_path / "outside.wav"
    outside.write_bytes((root / "a.wav").read_bytes())
    (root / f"x{decomposed}").symlink_to(outside)
    for name in (f"x{composed}", f"../{composed}/x.wav", composed.upper()):
        with pytest.raises(ProblemError) as told:
            admit("src_audio", name, access, LIMITS, uploads)
        assert told.value.status in (404, 422)
        assert decomposed not in told.value.message


def test_nothing_may_be_named_without_roots_nor_in_the_output(
    tmp_path: Path, root: Path, uploads: UploadStore
) -> None:
    kept = upload("src_audio", io.BytesIO((root / "a.wav").read_bytes()), "a.wav", LIMITS, uploads)
    assert load(kept.uri).shape[0] == 2
    for access in (Access(), Access(roots=(str(tmp_path),)), Access(roots=("/",))):
        with pytest.raises(ProblemError) as told:
            find("src_audio", kept.uri, access, uploads.store)
        assert told.value.status == 422


def test_a_file_is_kept_once_and_whole(root: Path, uploads: UploadStore) -> None:
    content = (root / "a.wav").read_bytes()
    one, two = (upload("src_audio", io.BytesIO(content), name, LIMITS, uploads) for name in ("x", "../../y"))
    assert one == two
    assert [file.name for file in Path(uploads.store.path("uploads")).iterdir()] == [one.digest]


def test_sources_and_uploads_in_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    server = S3Server()
    for name, value in (server.environment | {"AWS_ENDPOINT_URL": ""}).items():
        monkeypatch.setenv(name, value)
    options = f"?endpoint_override=127.0.0.1:{server.port}&scheme=http"
    try:
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{server.port}")
        for bucket in ("songs", "service", "secret"):
            client.create_bucket(Bucket=bucket)
        content = io.BytesIO()
        soundfile.write(content, tone(1.0), 48_000, format="FLAC")
        for bucket, key in (("songs", "in/a.flac"), ("songs", "b.flac"), ("secret", "in/a.flac")):
            client.put_object(Bucket=bucket, Key=key, Body=content.getvalue())
        output = f"s3://service/out{options}"
        uploads, access = UploadStore(open_store(output), output), Access(roots=(f"s3://songs/in{options}",))
        for value in ("a.flac", "s3://songs/in/a.flac"):
            assert load(admit("src_audio", value, access, LIMITS, uploads).uri).shape == (2, 48_000)
        kept = upload("src_audio", content, "x", LIMITS, uploads)
        assert load(kept.uri).shape == (2, 48_000)
        for value in (
            "../b.flac",
            "%2e%2e/b.flac",
            "s3://songs/b.flac",
            "s3://songs/in/../b.flac",
            "s3://secret/in/a.flac",
            f"s3://songs/in/a.flac{options}",
            "s3://songs@secret/in/a.flac",
        ):
            with pytest.raises(ProblemError) as told:
                admit("src_audio", value, access, LIMITS, uploads)
            assert told.value.status == 422, value
        with raises(ProblemError, "missing_file", "src_audio", "absent.flac"):
            admit("src_audio", "absent.flac", access, LIMITS, uploads)
    finally:
        server.stop()


def silence(seconds: int, kind: str) -> bytes:
    content = io.BytesIO()
    with soundfile.SoundFile(content, "w", 8000, 1, format=kind) as file:
        for _ in range(seconds):  # libsndfile's Ogg encoder crashes on large blocks
            file.write(np.zeros(8000, np.float32))
    return content.getvalue()


def lying_wav() -> bytes:
    """A second of sound whose header promises an hour."""
    content = bytearray(silence(1, "WAV"))
    content[40:44] = (3600 * 16_000).to_bytes(4, "little")
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (silence(20 * 60, "FLAC"), 413),
        (silence(20 * 60, "OGG"), 413),
        (silence(20 * 60, "MP3"), 413),
        (lying_wav(), 415),
        (silence(1, "WAV")[:300], 415),
        (b"", 415),
        (b"#!/bin/sh\nrm -rf /\n", 415),
        (b"#EXTM3U\n/etc/passwd\n", 415),
        (b"PK\x03\x04" + bytes(1000), 415),
    ],
    ids=["flac bomb", "ogg bomb", "mp3 bomb", "header lies", "cut", "empty", "script", "playlist", "zip"],
)
def test_files_that_are_no_source(served: Served, content: bytes, status: int) -> None:
    began = time.monotonic()
    reply = httpx.post(
        served.generations,
        files={"src_audio": ("a.wav", content)},
        data={"caption": "x", "inference_steps": "1"},
        timeout=30,
    )
    error = reply.json()["error"]
    assert (reply.status_code, error["field"]) == (status, "src_audio"), error
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"src_audio": "../../etc/passwd"}, 422),
        ({"src_audio": "file:///etc/passwd"}, 422),
        ({"src_audio": "http://169.254.169.254/latest/meta-data/iam"}, 422),
        ({"reference_audio": "/etc/passwd"}, 422),
        ({"caption": "x" * 10**6}, 413),
        ({"caption": "x" * 10**5}, 422),
        ({"lyrics": "x" * 10**5}, 422),
        ({"timesteps": [1.0] * 50_000}, 413),
        ({"stages": [{}] * 30_000}, 422),
        ({"instruction": "x" * 10**5}, 422),
        ({"guidance_scale": float("inf")}, 400),
        ({"seed": 2**80}, 422),
        ({"inference_steps": 10**9}, 422),
        ({"stages": [{"caption": "x" * 10**5}]}, 422),
        ({"__class__": "x"}, 422),
    ],
    ids=lambda value: str(value)[:60],
)
def test_hostile_bodies(served: Served, body: dict[str, object], status: int) -> None:
    asked = {"src_audio": "country_song.wav", "caption": "x", "inference_steps": 1} | body
    reply = httpx.post(
        served.generations, content=json.dumps(asked), headers={"Content-Type": "application/json"}, timeout=30
    )
    assert reply.status_code == status, reply.text[:500]
    assert len(reply.content) < 3000
