"""CSV as spreadsheets and programs write it: read where only one reading is possible, else refused."""

import csv
import io
import json
import tracemalloc
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acestep.parameters.values import unix_lines
from pipeline.catalogue.grid import make_settings
from pipeline.catalogue.manifest import RejectedRow, Track, read_manifest
from pipeline.catalogue.table_reader import rows_of
from pipeline.catalogue.text_manifest import MAX_LINE_CHARACTERS, ManifestError
from pipeline.planning.items import ItemRules, ModelFacts, make_items

HEADER = "track_id,source,caption\n"


def read(folder: Path, content: bytes | str, name: str = "tracks.csv") -> list[Track | RejectedRow]:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_manifest(str(folder / name)))


@pytest.mark.parametrize(
    "content",
    [
        "track_id;source;caption\r\nt;a.wav;rock, loud\r\n",
        "track_id\tsource\tcaption\nt\ta.wav\trock, loud\n",
        "track_id|source|caption\nt|a.wav|rock, loud\n",
        "sep=;\r\ntrack_id;source;caption\r\nt;a.wav;rock, loud\r\n",
        '"sep=^"\ntrack_id^source^caption\nt^a.wav^rock, loud\n',
        '\ufeff"track_id","source","caption"\n"t","a.wav","rock, loud"\n',
        'track_id, source, caption\nt, a.wav, "rock, loud"\n',
        'track_id,source,caption,\nt,a.wav,"rock, loud",\n',
        'track_id,source,caption\nt,a.wav,"rock, loud",,,\n',
        ',,\n\n track_id ,source,caption\nt,a.wav,"rock, loud"\n,,\n\n" ",,\nNaN,,\n',
        'track_id,source,caption\rt,a.wav,"rock, loud"\r',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_every_dialect_gives_the_same_track(tmp_path: Path, content: str, encoding: str) -> None:
    if encoding != "utf-8":
        content = content.removeprefix("\ufeff").lstrip(",\n")
    (track,) = read(tmp_path, content.encode(encoding))
    assert isinstance(track, Track)
    assert (track.track_id, track.source, track.prompt.caption) == ("t", str(tmp_path / "a.wav"), "rock, loud")


def test_tabs_by_extension_and_json_lines_in_utf_16(tmp_path: Path) -> None:
    (track,) = read(tmp_path, "track_id\tsource\tcaption\nt\ta.wav\tCafé\n", "t.tsv")
    line = json.dumps({"track_id": "t", "source": "a.wav", "caption": "Café"}, ensure_ascii=False)
    assert read(tmp_path, line.encode("utf-16"), "t.jsonl") == [track]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("t,a.wav,rock, loud", ("line 3 has 4 cells (delimiter ',')", "' loud'", "double quotes")),
        ("t,a.wav", ("line 3 has 2 cells", "3 columns")),
        ("track_id,source,caption", ("header again",)),
        ("\ufefftrack_id, source,caption", ("header again",)),
    ],
)
def test_a_row_of_other_length_is_set_aside_alone(tmp_path: Path, line: str, words: tuple[str, ...]) -> None:
    first, wrong, last = read(tmp_path, f"{HEADER}a,a.wav,x\n{line}\nb,b.wav,y\n")
    assert isinstance(first, Track)
    assert isinstance(last, Track)
    assert isinstance(wrong, RejectedRow)
    assert (wrong.kind, wrong.row) == ("malformed_row", 2)
    assert all(word in wrong.message for word in words)


@pytest.mark.parametrize(
    ("content", "delimiter"),
    [
        ("track_id;source;caption,with,commas\nt;a.wav;x\n", "';'"),
        ("track_id|sorce|my, own, title\nt|a.wav|x\n", r"'\|'"),
        ("track_id source title\nt a.wav x\n", "space"),
        ("track_id\tsource\tmy, own, title\nt\ta.wav\tx\n", "tab"),
        ("title,artist\nx,y\n", "','"),
    ],
)
def test_the_delimiter_that_gives_known_columns_is_taken_and_named(
    tmp_path: Path, content: str, delimiter: str
) -> None:
    with pytest.raises(
        ManifestError, match=rf"\(delimiter {delimiter}\): unknown column .* has no column .*'caption'"
    ):
        read(tmp_path, content)


def test_columns_parted_by_spaces(tmp_path: Path) -> None:
    track, wrong = read(tmp_path, 'track_id  source   caption\nt  a.wav  "rock, loud"\nu b.wav rock, loud\n')
    assert isinstance(track, Track)
    assert (track.track_id, track.prompt.caption) == ("t", "rock, loud")
    assert isinstance(wrong, RejectedRow)
    assert (wrong.kind, "4 cells (delimiter space)" in wrong.message) == ("malformed_row", True)


def test_a_byte_order_mark_of_a_joined_file_is_no_part_of_a_row(tmp_path: Path) -> None:
    lyrics = "la\n\ufefflo"
    rows = read(tmp_path, f'{HEADER[:-1]},lyrics\na,a.wav,x,\n\ufeffb,b.wav,x,"{lyrics}"\n\ufeff"c",c.wav,x,\n')
    assert [row.track_id for row in rows] == ["a", "b", "c"]
    assert isinstance(rows[1], Track)
    assert rows[1].prompt.lyrics == lyrics
    lines = [json.dumps({"track_id": name, "source": "a.wav", "caption": "x"}) for name in "ab"]
    rows = read(tmp_path, "\n\ufeff".join(lines), "t.jsonl")
    assert [row.track_id for row in rows] == ["a", "b"]


@pytest.mark.parametrize(
    ("kind", "exact", "lost"), [(pa.float32(), 2**24 - 1, 2**24 + 1), (pa.float16(), 2**11 - 1, 2**11 + 1)]
)
def test_ids_that_a_narrow_float_has_changed_are_refused(
    tmp_path: Path, kind: pa.DataType, exact: int, lost: int
) -> None:
    ids = pa.array(np.array([exact, lost], kind.to_pandas_dtype()))
    table = pa.table({"track_id": ids, "source": ["a.wav"] * 2, "caption": ["x"] * 2})
    strength = pa.array(np.array([0.1, 0.1], np.float32))
    pq.write_table(table.append_column("audio_cover_strength", strength), tmp_path / "t.parquet")
    track, rejected = read_manifest(str(tmp_path / "t.parquet"))
    assert isinstance(track, Track)
    assert (track.track_id, dict(track.overrides)) == (str(exact), {"audio_cover_strength": 0.1})
    assert isinstance(rejected, RejectedRow)
    assert (rejected.kind, "lost digits" in rejected.message) == ("not_text", True)


def test_rows_are_counted_as_a_spreadsheet_shows_them(tmp_path: Path) -> None:
    rows = read(tmp_path, f'{HEADER}a,a.wav,"two\nlines"\n,,\n\nb,,x\n')
    assert isinstance(rows[1], RejectedRow)
    assert rows[1].row == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"{HEADER}t,a.wav,Café\n".encode("cp1252"), ("line 2", "0xE9", "'t,a.wav,Café'", "CSV UTF-8")),
        (f'{HEADER}t,a.wav,"Best of" rock\n'.encode(), ("line 2", "double")),
        (f'{HEADER}t,a.wav,"rock\nu,b.wav,jazz\n'.encode(), ("line 2", "double quote")),
        (b"x" * (MAX_LINE_CHARACTERS + 5), ("line 1", "longer")),
        (b"PK\x03\x04rest", ("Excel", "CSV UTF-8")),
        (b"version https://git-lfs.github.com/spec/v1\noid", ("git lfs pull",)),
        (b"track_id;sorce;caption\nt;a.wav;x\n", ("unknown column 'sorce'", "'source'")),
    ],
    ids=["cp1252", "quote inside", "quote open", "no line ends", "xlsx", "git lfs", "semicolon and a wrong name"],
)
def test_what_can_be_read_in_two_ways_is_one_error(tmp_path: Path, content: bytes, words: tuple[str, ...]) -> None:
    with pytest.raises(ManifestError) as refused:
        read(tmp_path, content)
    assert all(word in str(refused.value) for word in words)


def test_a_line_break_at_the_edge_of_a_block_is_kept(tmp_path: Path) -> None:
    """Arrow's CSV reader loses the LF of a quoted CR LF that its blocks of 1 MiB part (apache/arrow#51368)."""
    head = "track_id,source,caption,lyrics\r\n001,a.wav,rock,"
    for shift in range(-2, 3):
        filler = "z" * ((1 << 20) - 2 - len(head) + shift)
        rows = read(tmp_path, f'{head}"{filler}\r\nsecond line"\r\n002,a.wav,jazz,plain\r\n')
        assert [row.prompt.lyrics for row in rows if isinstance(row, Track)] == [f"{filler}\nsecond line", "plain"]


def test_typed_and_untyped_files_give_the_same_tracks(tmp_path: Path) -> None:
    """What pandas makes of a table with gaps: floats for ids, NaN for what is not there, an index of its own."""
    nan = float("nan")
    table = pa.table(
        {
            "track_id": pa.array([7.0, 8.0, nan], from_pandas=False),
            "source": ["a.wav", "b.wav", None],
            "caption": ["x", "y", None],
            "lyrics": pa.array([None, "la", None]),
            "bpm": pa.array([108.0, nan, nan], from_pandas=False),
            "timesignature": pa.array([Decimal("4.0"), None, None]),
            "__index_level_0__": [3, 5, 9],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    typed = list(read_manifest(str(tmp_path / "t.parquet")))
    names = "track_id,source,caption,lyrics,bpm,timesignature"
    text = read(tmp_path, f"{names}\n7.0,a.wav,x,nan,108.0,4.0\n8.0,b.wav,y,la,,\n,,,,,\n")
    lines = [
        {"track_id": 7.0, "source": "a.wav", "caption": "x", "lyrics": None, "bpm": 108.0, "timesignature": "4/4"},
        {"track_id": 8, "source": "b.wav", "caption": "y", "lyrics": "la", "bpm": nan},
        {"track_id": None, "caption": nan},
    ]
    assert read(tmp_path, "\n".join(map(json.dumps, lines)), "t.jsonl") == text == typed
    assert [row.track_id for row in text] == ["7", "8"]


def test_words_that_stand_for_nothing(tmp_path: Path) -> None:
    """In a fact or a setting "null" is no value; in a caption it may be meant."""
    names = "track_id,source,caption,lyrics,language,bpm,keyscale,shift,reference_audio,seed\n"
    bare, written = read(
        tmp_path, f"{names}a,a.wav,null,NULL,NA,None,n/a,null,NULL,\\N\nb,a.wav,null,NULL,,,,,,\n"
    )
    assert isinstance(bare, Track)
    assert (bare.prompt, bare.overrides, bare.reference) == (written.prompt, {}, None)
    assert (bare.prompt.caption, bare.prompt.lyrics) == ("null", "NULL")
    assert any("'NULL'" in note for note in bare.notes)
    (nan,) = read(tmp_path, "track_id,source,caption,lyrics\na,a.wav,NaN,x\n")
    assert nan.kind == "empty_caption"


def test_bytes_and_repeated_columns_of_parquet(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"track_id": ["a"], "source": ["a.wav"], "caption": [b"rock"]}), tmp_path / "b.parquet"
    )
    (row,) = read_manifest(str(tmp_path / "b.parquet"))
    assert isinstance(row, RejectedRow)
    assert (row.kind, "b'rock'" in row.message) == ("not_text", True)
    twice = pa.table([pa.array(["a"])] * 4, names=["track_id", "source", "caption", "caption"])
    pq.write_table(twice, tmp_path / "c.parquet")
    with pytest.raises(ManifestError, match="column 'caption' is given twice"):
        list(read_manifest(str(tmp_path / "c.parquet")))


def test_a_folder_of_parts_is_named(tmp_path: Path) -> None:
    (tmp_path / "tracks.parquet").mkdir()
    with pytest.raises(ManifestError, match="is a folder"):
        list(read_manifest(str(tmp_path / "tracks.parquet")))


def test_items_follow_what_is_heard(tmp_path: Path) -> None:
    """Lyrics with CR LF are the item of those with LF, whose id is that of earlier versions."""
    rules = ItemRules(make_settings({"seed": 1}, {}), ModelFacts("demo", "f", False, "float32"))
    tracks = [
        read(tmp_path, f'track_id,source,caption,lyrics\nt,a.wav,x,"la{end}lo"\n')[0] for end in ("\r\n", "\n")
    ]
    (windows,), (unix,) = (list(make_items(track, "digest", None, rules)) for track in tracks)
    assert windows == unix


def test_a_random_seed_is_the_tracks_own_and_lasts(tmp_path: Path) -> None:
    rules = ItemRules(make_settings({"seed": -1}, {}), ModelFacts("demo", "f", False, "float32"))
    rows = read(tmp_path, "track_id,source,caption,seed\na,a.wav,x,\nb,a.wav,x,-1\nc,a.wav,x,5\n")
    first, again = ([next(make_items(row, "digest", None, rules))["seed"] for row in rows] for _ in "12")
    assert first == again
    assert len(set(first)) == 3
    assert first[2] == 5


@settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1, max_size=4
    ),
    delimiter=st.sampled_from(",;\t|"),
    line_end=st.sampled_from(["\n", "\r\n", "\r", "\r\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]),
)
def test_any_words_come_back_from_any_dialect(
    tmp_path: Path, texts: list[str], delimiter: str, line_end: str, encoding: str
) -> None:
    text = io.StringIO(newline="")
    # Before Python 3.13 the writer leaves line breaks bare that are not of its own kind.
    quoting = csv.QUOTE_MINIMAL if {"\r", "\n"} <= set(line_end) else csv.QUOTE_ALL
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    writer.writerow(["track_id", "source", "caption", "lyrics"])
    writer.writerows([f"t{k}", "a.wav", f"x{words}", f"{words}x"] for k, words in enumerate(texts))
    rows = read(tmp_path, text.getvalue().encode(encoding))
    assert [(row.prompt.caption, row.prompt.lyrics) for row in rows if isinstance(row, Track)] == [
        (unix_lines(f"x{words}"), unix_lines(f"{words}x")) for words in texts
    ]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    with (tmp_path / "tracks.csv").open("w") as file:
        file.write("track_id,source\n")
        file.writelines(f"t{k},{'la ' * 5000}\n" for k in range(1000))  # 15 MB
    tracemalloc.start()
    try:
        rows = rows_of(str(tmp_path / "tracks.csv"), lambda names, where, complete: None)
        assert sum(1 for _ in rows) == 1000
        assert tracemalloc.get_traced_memory()[1] < 3e6
    finally:
        tracemalloc.stop()
