"""Manifests of every kind, and every way a row or a file can be wrong."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from pipeline.catalogue.manifest import RejectedRow, Track
from pipeline.catalogue.manifest import read_manifest as stream_manifest
from pipeline.catalogue.table_reader import ManifestError

ROWS = [
    {"track_id": "001", "source": "a.wav", "caption": "jazz, piano", "bpm": "90", "audio_cover_strength": "0.3"},
    {"track_id": "b", "source": "/abs/b.flac", "caption": 'line\nbreak, "quotes"', "timesignature": "4"},
    {"track_id": "ç d", "source": "s3://bucket/c.mp3", "caption": "x", "seed": "7", "reference_audio": "r.wav"},
]


def write(folder: Path, kind: str, rows: list[dict]) -> str:
    path = folder / f"tracks.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
        return str(path)
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        pyarrow.csv.write_csv(table, path)
    return str(path)


def read_manifest(uri: str) -> tuple[list[Track], list[RejectedRow]]:
    rows = list(stream_manifest(uri))
    return [r for r in rows if isinstance(r, Track)], [r for r in rows if isinstance(r, RejectedRow)]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_every_kind_gives_the_same_tracks(tmp_path: Path, kind: str) -> None:
    tracks, rejected = read_manifest(write(tmp_path, kind, ROWS))
    assert not rejected
    first, second, third = tracks
    assert (first.track_id, first.source) == ("001", str(tmp_path / "a.wav"))
    assert first.prompt.bpm == 90
    assert dict(first.overrides) == {"audio_cover_strength": 0.3}
    assert (second.source, second.prompt.caption) == ("/abs/b.flac", 'line\nbreak, "quotes"')
    assert (third.track_id, third.source) == ("ç d", "s3://bucket/c.mp3")
    assert (third.overrides, third.reference) == ({"seed": 7}, str(tmp_path / "r.wav"))


def test_typed_columns(tmp_path: Path) -> None:
    table = pa.table(
        {"track_id": [1], "source": ["a.wav"], "caption": ["x"], "bpm": [90.0], "timesignature": [4.0]}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    (track,), _ = read_manifest(str(tmp_path / "t.parquet"))
    assert (track.track_id, track.prompt.bpm, track.prompt.timesignature) == ("1", 90, "4")


def test_empty_lyrics_become_instrumental_and_say_so(tmp_path: Path) -> None:
    (track, *_), _ = read_manifest(write(tmp_path, "csv", ROWS))
    assert track.prompt.lyrics == "[Instrumental]"
    assert track.notes == ("lyrics are empty: [Instrumental] is used",)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"track_id": ""}, "missing_value", "track_id is empty"),
        ({"source": None}, "missing_value", "source is empty"),
        ({"caption": "  "}, "empty_caption", "caption is empty"),
        ({"track_id": "../evil"}, "unsafe_track_id", "track_id '../evil' cannot name a folder"),
        ({"track_id": "a/b"}, "unsafe_track_id", "cannot name a folder"),
        ({"track_id": ".hidden"}, "unsafe_track_id", "cannot name a folder"),
        ({"track_id": "x" * 201}, "unsafe_track_id", "up to 200 bytes"),
        ({"track_id": "good"}, "duplicate_track_id", "track_id 'good' is taken by row 1"),
        (
            {"audio_cover_strength": "1.5"},
            "out_of_range",
            r"audio_cover_strength 1.5 is out of range; allowed: 0..1",
        ),
        ({"bpm": "fast"}, "out_of_range", "bpm 'fast' is not a whole number"),
        ({"bpm": "20"}, "out_of_range", "bpm 20 is out of range"),
        ({"language": "klingon"}, "out_of_range", "language 'klingon' is unknown"),
        ({"keyscale": "H"}, "out_of_range", "keyscale 'H' is unknown"),
        ({"seed": "-3"}, "out_of_range", "seed '-3' is out of range"),
        ({"bpm": True}, "out_of_range", "bpm True is not a whole number"),
        ({"shift": "0,3"}, "out_of_range", "write a decimal point: 0.3"),
        ({"caption": ["rock"]}, "not_text", "caption ['rock'] is not text"),
        ({"caption": True}, "not_text", "caption True is not text"),
        ({"lyrics": {"verse": "la"}}, "not_text", "lyrics {'verse': 'la'} is not text"),
        ({"track_id": [7]}, "not_text", "track_id [7] is not text"),
        ({"track_id": 1.4334955861976132e17}, "not_text", "has lost digits"),
        ({"track_id": "9.91214E+15"}, "unsafe_track_id", "has lost digits"),
        ({"track_id": "4,687E17"}, "unsafe_track_id", "has lost digits"),
        ({"source": float("inf")}, "not_text", "source inf is not text"),
        ({"source": "a\0.wav"}, "garbled_text", "NUL"),
        ({"caption": "#NAME?"}, "garbled_text", "a spreadsheet's error"),
        ({"caption": float("nan")}, "empty_caption", "caption is empty"),
        ({"track_id": "NaN"}, "missing_value", "track_id is empty"),
    ],
)
def test_a_bad_row_is_set_aside_alone(tmp_path: Path, changes: dict, kind: str, message: str) -> None:
    good = {"track_id": "good", "source": "a.wav", "caption": "x"}
    bad = {"track_id": "bad", "source": "b.wav", "caption": "x"} | changes
    tracks, (rejected,) = read_manifest(write(tmp_path, "jsonl", [good, bad, good | {"track_id": "last"}]))
    assert [track.track_id for track in tracks] == ["good", "last"]
    assert rejected.kind == kind
    assert rejected.message.startswith("row 2: ")
    assert message in rejected.message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.csv",
            "track_id,source,caption,guidence_scale\na,b,c,7\n",
            "unknown column 'guidence_scale'; did you mean",
        ),
        ("t.csv", "track_id,source\na,b\n", "has no column 'caption'"),
        ("t.csv", "track_id,source,caption\n", "holds no rows"),
        ("t.csv", "", "empty file"),
        ("t.csv", 'track_id,source,caption\na,b,"c\n', "line 2 is not readable as csv"),
        ("t.csv", "track_id,source,caption,bpm,bpm\na,b,c,90,91\n", "column 'bpm' is given twice"),
        ("t.csv", ",track_id,source,caption\n0,a,b,c\n", "column 1 has no name"),
        (
            "t.jsonl",
            '{"track_id": "a", "source": "b", "caption": "c", "caption": "d"}\n',
            "'caption' is given twice",
        ),
        ("t.jsonl", '{"track_id": "a", "source": "b", "caption": "c"}\n{oops\n', "line 2 is not JSON"),
        ("t.jsonl", "[1]\n", "line 1 is a list"),
        ("t.jsonl", '{"track_id": "a", "sorce": "b"}\n', "line 1: unknown column 'sorce'; did you mean 'source'"),
        ("t.parquet", "not parquet", "not readable as parquet"),
        ("t.xlsx", "x", "unknown kind of manifest"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ManifestError, match=message):
        read_manifest(str(tmp_path / name))


def test_missing_file() -> None:
    with pytest.raises(ManifestError, match=r"/nowhere/t\.csv: cannot be read"):
        read_manifest("/nowhere/t.csv")


def test_names_in_any_script_and_text_with_odd_line_separators(tmp_path: Path) -> None:
    rows = [
        {"track_id": name, "source": "a.wav", "caption": "jazz\u2028piano\u0085trio", "cfg_interval_start": 0.97}
        for name in ("हिन्दी", "Cafe\u0301", "한국어 노래", "ไทย")
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    tracks, rejected = read_manifest(str(tmp_path / "t.jsonl"))
    assert not rejected
    assert [track.track_id for track in tracks] == ["हिन्दी", "Café", "한국어 노래", "ไทย"]
    assert tracks[0].prompt.caption == rows[0]["caption"]


def test_half_a_character_is_a_rejected_row(tmp_path: Path) -> None:
    path = tmp_path / "tracks.jsonl"
    path.write_text('{"track_id": "a", "source": "\\ud800.wav", "caption": "jazz"}\n')
    (row,) = stream_manifest(str(path))
    assert isinstance(row, RejectedRow)
    assert (row.kind, row.source) == ("garbled_text", "?.wav")
    assert "row 1: source '?.wav' holds half a character" in row.message


def rows_with(*ids: str) -> list[dict]:
    return [{"track_id": track_id, "source": "a.wav", "caption": "x"} for track_id in ids]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("A", "a"),
        ("a", "A"),
        ("fix", "\ufb01x"),  # a ligature
        ("stra\u00dfe", "STRASSE"),
        ("\uff41", "a"),  # a wide letter
        ("\u00c5", "\u00e5"),
    ],
)
def test_two_ids_that_name_one_file_somewhere(tmp_path: Path, first: str, second: str) -> None:
    uri = write(tmp_path, "jsonl", rows_with(first, "b", second, first, second))
    tracks, rejected = read_manifest(uri)
    assert [track.track_id for track in tracks] == [first, "b"]
    assert {(row.row, row.kind) for row in rejected} == {
        (3, "duplicate_track_id"),
        (4, "duplicate_track_id"),
        (5, "duplicate_track_id"),
    }
    assert repr(first) in rejected[0].message
    assert repr(second) in rejected[0].message
    # An older folder has covers of both.
    tracks = [row for row in stream_manifest(uri, made=lambda: {first, second}) if isinstance(row, Track)]
    assert [track.track_id for track in tracks] == [first, "b", second]


@pytest.mark.parametrize("name", ["con", "CON", "Aux.flac", "nul.tar.gz", "COM1", "lpt9.x", "com\u00b9", "PRN .a"])
def test_names_of_devices(tmp_path: Path, name: str) -> None:
    uri = write(tmp_path, "jsonl", rows_with(name, "icon", "con1", "com10", "a.con", "auxiliary"))
    tracks, (row,) = read_manifest(uri)
    assert len(tracks) == 5
    assert (row.kind, row.track_id) == ("unsafe_track_id", name)
    assert len(list(stream_manifest(uri, made=lambda: {name}))) == 6
    assert all(isinstance(row, Track) for row in stream_manifest(uri, made=lambda: {name}))


@pytest.mark.parametrize("name", ["a.", "a ", "a. ", " a"])
def test_ends_that_windows_takes_away(tmp_path: Path, name: str) -> None:
    tracks, rejected = read_manifest(write(tmp_path, "jsonl", rows_with(name)))
    assert [row.kind for row in rejected] == ["unsafe_track_id"] or [track.track_id for track in tracks] == ["a"]
