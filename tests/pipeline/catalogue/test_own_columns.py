"""Columns of the user's own are carried unchanged, no misspelt column is taken for one, and ids ignore them."""

import datetime
import json
import re
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hydra.core.override_parser.overrides_parser import OverridesParser

from acestep.errors import RequestError
from pipeline.catalogue.grid import make_settings
from pipeline.catalogue.manifest import RejectedRow, Track, read_manifest
from pipeline.catalogue.own_columns import EVERY, META, META_TYPE, misspelt, parse_declared, spread_out
from pipeline.catalogue.probe import probe
from pipeline.catalogue.table_reader import COLUMNS, ColumnsError, ManifestError
from pipeline.planning.external_covers import read_pairs
from pipeline.planning.items import ItemRules, ModelFacts
from pipeline.planning.plan import Plan, make_plan
from pipeline.planning.schema import PLAN_SCHEMA
from pipeline.results.carried_columns import CarriedColumns, with_new_columns
from pipeline.results.columns import SCHEMA
from pipeline.results.finished_items import finished_items
from pipeline.results.reader import REJECTED, RESULTS, current_rows
from pipeline.results.writer import ResultWriter, as_table
from pipeline.storage.store import open_store
from pipeline.workflows.measure import measure_all, update_listed_columns
from pipeline.workflows.specs import MeasureJob, RestyleJob
from pipeline.workflows.tune import SAMPLE, write_sample
from tests.conftest import tone

OWN = {"title": " Blue, Moon ", "isrc": "GBAYE0601477", "Künstler": "Émile", "meta.label": "x;y"}
ROW = {"track_id": "a", "source": "a.wav", "caption": "jazz"}
RULES = ItemRules(
    make_settings({"audio_cover_strength": 0.5, "guidance_scale": 9.0, "seed": 42}, {}),
    ModelFacts("demo", "f00d", is_turbo=False, dtype="float32"),
    max_seconds=2.0,
)


def write(folder: Path, kind: str, *rows: dict) -> str:
    path = folder / f"tracks.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif kind == "csv":
        quoted = [",".join(f'"{value}"' for value in line) for line in (rows[0], *(row.values() for row in rows))]
        path.write_text("\n".join(quoted) + "\n")
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def read(uri: str, *own: str) -> list[Track | RejectedRow]:
    return list(read_manifest(uri, own=own))


@pytest.mark.parametrize(
    ("value", "declared"),
    [
        (None, ()),
        ("keep", EVERY),
        ("title", ("title",)),
        (["title", "meta.*"], ("title", "meta.*")),
        (["Ku\u0308nstler"], ("Künstler",)),
    ],
)
def test_what_declares_columns(value: object, declared: tuple[str, ...]) -> None:
    assert parse_declared(value) == declared


@pytest.mark.parametrize("value", [True, 3, "", [""], [1], {"title": "x"}])
def test_what_declares_none_is_refused(value: object) -> None:
    with pytest.raises(RequestError, match="manifest_columns=keep"):
        parse_declared(value)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("declared", [EVERY, tuple(OWN), ("title", "[Ii]src", "K*", "meta.*")])
def test_values_are_carried_unchanged(tmp_path: Path, kind: str, declared: tuple[str, ...]) -> None:
    (track,) = read(write(tmp_path, kind, ROW | OWN), *declared)
    assert isinstance(track, Track)
    assert track.meta == OWN


def test_typed_values_are_text_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    own = {
        "year": 1999.0,
        "gain": -0.5,
        "upc": 5099749534728,
        "explicit": True,
        "released": datetime.date(1999, 4, 1),
        "price": Decimal("1.10"),
        "tags": ["a", "ü"],
        "rights": {"owner": "x", "until": datetime.date(2030, 1, 1)},
    }
    (track,) = read(write(tmp_path, "parquet", ROW | own | {"note": None, "blank": " "}), "*")
    assert isinstance(track, Track)
    assert track.meta == {
        "year": "1999",
        "gain": "-0.5",
        "upc": "5099749534728",
        "explicit": "true",
        "released": "1999-04-01",
        "price": "1.10",
        "tags": '["a", "ü"]',
        "rights": '{"owner": "x", "until": "2030-01-01"}',
    }


def test_rows_of_json_lines_bring_columns_and_types_of_their_own(tmp_path: Path) -> None:
    looks_like_schema = 'a (...) ,action: string, datetime: timestamp[s] {"x": [1'
    later = [{"upc": "012345678901"}, {"upc": 12345678901, "note": looks_like_schema}, {"upc": ["1", "2"]}, {}]
    rows = [ROW | {"track_id": str(k)} | own for k, own in enumerate(later)]
    tracks = read(write(tmp_path, "jsonl", *rows), "*")
    assert [track.meta for track in tracks] == [
        {"upc": "012345678901"},
        {"upc": "12345678901", "note": looks_like_schema},
        {"upc": '["1", "2"]'},
        {},
    ]


def test_names_of_result_columns_are_nobodys(tmp_path: Path) -> None:
    """A label's own ``status`` or ``file`` stands beside ours in every table."""
    taken = {name: f"my {name}" for name in (*SCHEMA.names, "reason", "file", "margin") if name not in COLUMNS}
    (track,) = read(write(tmp_path, "jsonl", ROW | taken), *taken)
    (row,) = as_table([{"item_id": "1", "track_id": "a", "status": "ok", META: track.meta}]).to_pylist()
    assert (row["status"], dict(row[META])) == ("ok", taken)
    columns = spread_out(pa.array([track.meta], META_TYPE))
    assert columns.keys().isdisjoint({*SCHEMA.names, "reason", "file", "margin"})
    assert len(columns) == len(taken)


@pytest.mark.parametrize("art", [b"\xff\xd8", {"bytes": b"\xff\xd8", "path": "x.jpg"}, [b"\xff"]])
def test_a_column_of_bytes_is_refused_once_by_name(tmp_path: Path, art: object) -> None:
    uri = write(tmp_path, "parquet", ROW | OWN | {"art": None}, ROW | OWN | {"track_id": "b", "art": art})
    with pytest.raises(ManifestError, match=r"'art' holds bytes.*drop\(columns=\['art'\]\)"):
        read(uri, "*")
    with pytest.raises(ManifestError, match="'art' holds bytes"):  # not that declaring it would help
        read(uri)


HOUR_NS = 3_600_000_000_000


@pytest.mark.parametrize(
    ("values", "kind", "text"),
    [
        ([HOUR_NS + 1], pa.time64("ns"), "01:00:00.000000001"),
        ([HOUR_NS], pa.time64("ns"), "01:00:00"),
        ([1], pa.timestamp("ns"), "1970-01-01T00:00:00.000000001"),
        ([0], pa.timestamp("us"), "1970-01-01T00:00:00"),
        ([1_500], pa.timestamp("ms", "Europe/Berlin"), "1970-01-01T01:00:01.500+01:00"),
        ([0], pa.timestamp("s", "UTC"), "1970-01-01T00:00:00+00:00"),
        ([2**59], pa.timestamp("us"), "20237-04-25T10:45:03.423488"),
        ([0.1], pa.float32(), "0.1"),
        ([1999.0], pa.float32(), "1999"),
        ([16777216.0], pa.float32(), "16777216"),
        ([0.1], pa.float16(), "0.1"),
        ([0.1], pa.float64(), "0.1"),
        ([3], pa.duration("s"), "0:00:03"),
    ],
)
def test_typed_values_keep_their_precision(tmp_path: Path, values: list, kind: pa.DataType, text: str) -> None:
    table = pa.Table.from_pylist([ROW, ROW | {"track_id": "b"}])
    uri = str(tmp_path / "t.parquet")
    pq.write_table(table.append_column("own", pa.array([*values, None], kind)), uri)
    first, second = read(uri, "*")
    assert (first.meta, second.meta) == ({"own": text}, {})


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("own", pa.array([2**62], pa.timestamp("us"))),
        ("own", pa.array([2**30], pa.date32())),
        ("own", pa.array([1], pa.timestamp("us", "Mars/Olympus"))),
        ("own", pa.array([[2**60]], pa.list_(pa.timestamp("us")))),
        ("lyrics", pa.array([2**60], pa.timestamp("us"))),
    ],
)
def test_a_typed_value_that_cannot_be_read_is_one_error(tmp_path: Path, name: str, column: pa.Array) -> None:
    uri = str(tmp_path / "t.parquet")
    pq.write_table(pa.Table.from_pylist([ROW]).append_column(name, column), uri)
    with pytest.raises(ManifestError, match=rf"column '{name}' \(.*write it as text"):
        read(uri, "*")


def test_the_two_names_of_one_column_are_spread_out_together() -> None:
    """A row of an earlier launch may have ``title`` where a later one has ``meta.title``."""
    rows = [{"title": "0"}, {"title": "1", "isrc": "i"}, None, {}, {"meta.title": "4"}]
    for start in range(len(rows) + 1):
        columns = spread_out(pa.chunked_array([pa.array(rows, META_TYPE).slice(start)]))
        assert columns == spread_out(pa.array(rows, META_TYPE).slice(start))
        assert columns.keys() == (
            {"meta.title", "meta.isrc"} if start < 2 else {"meta.title"} if start < 5 else set()
        )
        if start < 5:
            assert columns["meta.title"].to_pylist() == ["0", "1", None, None, "4"][start:]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("captoin", "caption"),
        ("Caption", "caption"),
        ("Track ID", "track_id"),
        ("lyric", "lyrics"),
        ("bmp", "bpm"),
        ("guidence_scale", "guidance_scale"),
        ("Reference Audio", "reference_audio"),
        *((name, None) for name in ("title", "artist", "isrc", "track_no", "track_title", "album_id", "genre")),
        *(
            (name, None)
            for name in ("label", "tempo", "key", "year", "source_url", "duration", "歌手", "meta.seed")
        ),
    ],
)
def test_misspellings_of_known_columns_and_names_of_ones_own(tmp_path: Path, name: str, meant: str | None) -> None:
    assert misspelt(name, COLUMNS) == meant
    uri = write(tmp_path, "jsonl", ROW | {name: "x"})
    (carried_columns,) = read(uri, name)  # whoever names a column means it
    assert carried_columns.meta == {name: "x"}
    if meant is None:
        assert read(uri, "*") == [carried_columns]
        return
    with pytest.raises(ColumnsError, match=f"{name!r}; did you mean {meant!r}") as raised:
        read(uri, "*")
    assert raised.value.unknown == {name: meant}


def test_every_undeclared_column_is_named_at_once_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ColumnsError, match=r"manifest_columns=\[isrc,captoin,title\]") as raised:
        read(write(tmp_path, "csv", ROW | {"captoin": "", "title": "", "isrc": ""}), "isrc")
    assert raised.value.unknown == {"captoin": "caption", "title": None}


@pytest.mark.parametrize(
    ("columns", "declared", "remedy"),
    [
        (["Track Title", "isrc"], [], "manifest_columns=keep or \"manifest_columns=[isrc,'Track Title']\""),
        (["captoin"], ["*"], 'own, "manifest_columns=[*,captoin]"'),
        (["captoin"], ["isrc"], 'own, "manifest_columns=[isrc,captoin]"'),
        (["it's"], [], "manifest_columns=keep carries"),
    ],
)
def test_the_remedy_can_be_typed(tmp_path: Path, columns: list[str], declared: list[str], remedy: str) -> None:
    uri = write(tmp_path, "jsonl", ROW | {"isrc": "i"} | dict.fromkeys(columns, "x"))
    with pytest.raises(ColumnsError) as raised:
        read(uri, *declared)
    assert remedy in str(raised.value)
    if match := re.search(r'"(manifest_columns=.*)"', str(raised.value)):
        value = OverridesParser.create().parse_override(match[1]).value()
        assert read(uri, *parse_declared(list(map(str, value))))


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_a_declared_column_that_is_not_there_is_an_error(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ManifestError, match=r"'ISRC', which manifest_columns names"):
        read(write(tmp_path, kind, ROW | OWN), "*", "ISRC", "no_such_*")


@pytest.mark.parametrize(("first", "second"), [("label", "meta.label"), ("é", "e\u0301")])
def test_two_columns_that_would_be_one_are_refused(tmp_path: Path, first: str, second: str) -> None:
    for rows in ([ROW | {first: "1", second: "2"}], [ROW | {first: "1"}, ROW | {second: "2"}]):
        with pytest.raises(ManifestError, match="rename one"):
            read(write(tmp_path, "jsonl", *rows), "*")


@pytest.mark.parametrize("name", ["", " ", "\\ud800"])
def test_a_column_whose_name_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(ROW)[:-1] + f', "{name}": "x"}}')
    with pytest.raises(ManifestError, match="cannot be written"):
        read(str(path), "*")


def test_columns_that_cannot_be_used_do_not_hide_the_rows(tmp_path: Path) -> None:
    wrong: list[ManifestError] = []
    rows = [
        ROW | {"title": "x"},
        {"track_id": "b", "source": "b.wav", "captoin": "soul", "bpm": "fast", "title": "y"},
    ]
    rows.append({"track_id": "c", "source": "c.wav", "captoin": "soul"})
    read_rows = list(read_manifest(write(tmp_path, "jsonl", *rows), wrong=wrong.append))
    assert [type(row) for row in read_rows] == [Track, RejectedRow, Track]
    assert isinstance(read_rows[2], Track)
    assert read_rows[2].prompt.caption == "soul"
    assert [error.unknown for error in wrong if isinstance(error, ColumnsError)] == [
        {"title": None},
        {"captoin": "caption"},
    ]


def planned(output: Path, *tracks: Track | RejectedRow, carry: bool = True) -> tuple[Plan, pa.Table, pa.Table]:
    store, work, final = open_store(str(output)), [PLAN_SCHEMA.empty_table()], []
    look = lambda uris: {uri: probe(uri) for uri in uris}  # noqa: E731
    carried_columns = CarriedColumns(store) if carry else None
    plan = make_plan(tracks, RULES, finished_items(store), look, work.append, final.append, carried_columns)
    return plan, pa.concat_tables(work), pa.concat_tables(final)


def test_plans_and_rows_of_what_cannot_run_carry_them_and_ids_do_not(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.0), 48_000)
    gone, bad = ROW | {"track_id": "b", "source": "gone.wav"}, ROW | {"track_id": "c", "bpm": "fast"}
    soundfile.write(tmp_path / "long.wav", tone(3.0), 48_000)
    long = ROW | {"track_id": "d", "source": "long.wav"}
    known = read(write(tmp_path, "jsonl", ROW, gone, bad, long))
    told = read(write(tmp_path, "jsonl", *(row | OWN for row in (ROW, gone, bad, long))), "*")
    bare, _, _ = planned(tmp_path / "out", *known)
    plan, work, final = planned(tmp_path / "out", *told)
    assert plan.ids == bare.ids
    assert [dict(meta) for meta in work[META].to_pylist()] == [OWN]
    assert {row["track_id"]: (row["status"], dict(row[META])) for row in final.to_pylist()} == {
        "b": ("failed", OWN),
        "c": ("rejected", OWN),
        "d": ("rejected", OWN),
    }


def test_parts_that_carry_different_columns_are_read_together(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for item, meta in (("1", {"title": "x", "isrc": "i"}), ("2", {"title": "y", "meta.label": "z"}), ("3", None)):
        writer = ResultWriter(store, RESULTS)
        writer.add(as_table([{"item_id": item, "track_id": item, "status": "ok", META: meta}]))
        writer.flush()
    old = as_table([{"item_id": "0", "track_id": "0", "status": "ok"}]).drop_columns([META])
    pq.write_table(old, tmp_path / RESULTS / "part-0.parquet")  # of a version without own columns
    rows = current_rows(store, columns=("item_id", META))
    columns = {
        name: dict(zip(rows["item_id"].to_pylist(), values.to_pylist(), strict=True))
        for name, values in spread_out(rows[META]).items()
    }
    assert columns == {
        "meta.isrc": {"0": None, "1": "i", "2": None, "3": None},
        "meta.label": {"0": None, "1": None, "2": "z", "3": None},
        "meta.title": {"0": None, "1": "x", "2": "y", "3": None},
    }
    assert spread_out(rows[META].slice(0, 0)) == {}


def test_finished_rows_get_the_columns_that_are_declared_today(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.0), 48_000)
    store, output = open_store(str(tmp_path / "out")), tmp_path / "out"
    bad = ROW | {"track_id": "b", "bpm": "fast"}
    before = read(write(tmp_path, "jsonl", *(row | {"title": "Old"} for row in (ROW, bad))), "*")
    plan, work, final = planned(output, *before)
    (item,) = work.to_pylist()[0]["items"]
    done = {"item_id": item["item_id"], "track_id": "a", "status": "ok", "duration_s": 1.0, META: {"title": "Old"}}
    for folder, table in ((RESULTS, as_table([done])), (REJECTED, final)):
        writer = ResultWriter(store, folder)
        writer.add(table)
        writer.flush()
    assert planned(output, *before)[0].outdated == {}

    after = read(write(tmp_path, "jsonl", *(row | {"title": "New", "isrc": "i"} for row in (ROW, bad))), "*")
    plan = planned(output, *after)[0]
    assert (plan.items, plan.done) == (0, 2)
    writer = ResultWriter(store, RESULTS)
    writer.add(with_new_columns(store, plan.outdated))
    writer.flush()
    rows = {row["track_id"]: row for row in current_rows(store).to_pylist()}
    assert [dict(row[META]) for row in rows.values()] == [{"title": "New", "isrc": "i"}] * 2
    assert (rows["a"]["status"], rows["a"]["duration_s"], rows["b"]["status"]) == ("ok", 1.0, "rejected")
    assert planned(output, *after)[0].outdated == {}
    assert planned(output, *before, carry=False)[0].outdated == {}


def test_a_list_of_pairs_carries_them_too(tmp_path: Path) -> None:
    pair = {"source": "a.wav", "output": "b.wav"}
    (bare,) = read_pairs(write(tmp_path, "csv", pair))
    (row,) = read_pairs(write(tmp_path, "csv", pair | OWN), EVERY)
    assert row == bare | {META: OWN}
    with pytest.raises(ColumnsError, match="'outptu'; did you mean 'output'"):
        list(read_pairs(write(tmp_path, "csv", pair | {"outptu": "x"}), EVERY))
    with pytest.raises(ManifestError, match="no row has 'isrc'"):
        list(read_pairs(write(tmp_path, "jsonl", pair), ("isrc",)))
    store = open_store(str(tmp_path / "out"))
    writer = ResultWriter(store, RESULTS)
    writer.add(as_table([bare | {"duration_s": 1.0}]))
    writer.flush()
    update_listed_columns(store, as_table([row]))
    (kept,) = current_rows(store).to_pylist()
    assert (dict(kept[META]), kept["duration_s"]) == (OWN, 1.0)
    with pytest.raises(RequestError, match="manifest_columns is for a list of pairs"):
        measure_all(MeasureJob(str(tmp_path / "out"), manifest_columns=EVERY), pytest.fail)


def test_a_sample_of_a_manifest_carries_them_too(tmp_path: Path) -> None:
    own = OWN | {"released": datetime.datetime(1999, 4, 1, 12)}
    uri = write(tmp_path, "parquet", ROW | own | {"isrc": None}, ROW | {"track_id": "b"} | own)
    job = RestyleJob(uri, str(tmp_path / "out"), {}, manifest_columns=("*", "isrc"))
    assert write_sample(job, 1, open_store(str(tmp_path))) in (["a"], ["b"])
    (sampled,) = read(str(tmp_path / SAMPLE), *job.manifest_columns)
    assert sampled == next(track for track in read(uri, "*") if track.track_id == sampled.track_id)
