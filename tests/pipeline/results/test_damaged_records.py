"""Damaged probes, job files and requests of the service: named, and done without."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import soundfile

from acestep.errors import RestyleError
from pipeline.catalogue.probe import PROBES, ProbeCache
from pipeline.results.job_file_reader import JOB_FILE, read_record, tracking_key
from pipeline.results.reader import RESULTS
from pipeline.results.writer import ResultWriter, as_table
from pipeline.service.generation_request import GenerationRequest
from pipeline.service.generation_store import OPEN, ORDERS, GenerationStore
from pipeline.storage.parquet_parts import encode_parquet, part_names, write_part
from pipeline.storage.store import open_store
from pipeline.tracking.spec import TrackingSpec
from pipeline.workflows.measure import measure_all
from pipeline.workflows.specs import MeasureJob
from tests.conftest import tone
from tests.mlflow_database import create_database
from tests.pipeline.results.damage import (
    DAMAGE,
    FOREIGN,
    broken_link,
    cut,
    folder,
    footer,
    pipe,
    written,
)
from tests.pipeline.tracking.test_tracker import rows as tracked_rows
from tests.pipeline.tracking.test_tracker import track as tracked


@pytest.mark.parametrize("harm", [*DAMAGE, *FOREIGN])
def test_probes_are_read_again_where_they_are_damaged(
    tmp_path: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    store, uri = open_store(str(tmp_path)), str(tmp_path / "a.wav")
    soundfile.write(uri, tone(1.0), 48_000)
    first = ProbeCache(store, "1").of([uri])
    (part,) = (tmp_path / name for name in part_names(store, PROBES))
    Path(tmp_path, "other.parquet").write_bytes(encode_parquet(pa.table({"uri": ["b"], "digest": ["wrong"]})))
    harm(part)
    assert ProbeCache(store, "2").of([uri]) == first
    if harm is footer:  # probes have no such column
        return
    assert part.name in caplog.text
    assert os.path.lexists(part) == (harm in FOREIGN)
    caplog.clear()
    assert ProbeCache(store, "3").of([uri]) == first
    assert (part.name in caplog.text) == (harm in FOREIGN)


NO_RECORDS = {
    "cut": b'{"catalogue": "songs", "param',
    "empty": b"",
    "not JSON": b"PAR1\xff\xfe",
    "a list": b"[1, 2]",
    "a number": b"7",
    "deep": b"[" * 100_000,
    "wrong types": b'{"catalogue": 5}',
    "wrong parameters": b'{"parameters": [1]}',
    "wrong labels": b'{"labels": {"a": 1}}',
    "wrong job": b'{"job": "songs"}',
    "wrong tracking": b'{"job": {"tracking": 5}}',
    "wrong experiment": b'{"job": {"tracking": {"experiment": ["x"]}}}',
    "wrong key": b'{"folder": "x", "tracking_key": {"a": 1}}',
}


@pytest.mark.parametrize("name", NO_RECORDS)
def test_a_damaged_job_file_is_told_of_and_not_used(tmp_path: Path, name: str) -> None:
    store = open_store(str(tmp_path))
    nothing, told = read_record(store), []
    store.write(JOB_FILE, NO_RECORDS[name])
    assert read_record(store, told.append) == nothing
    (message,) = told
    assert str(tmp_path / JOB_FILE) in message
    assert tracking_key(store, store.root)


@pytest.mark.parametrize("harm", [pipe, folder, broken_link])
def test_a_job_file_that_is_none_does_not_hold_anybody_up(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    harm(tmp_path / JOB_FILE)
    assert read_record(open_store(str(tmp_path)))["job"] == {}


def test_null_in_a_job_file_is_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    nothing, told = read_record(store), []
    store.write(JOB_FILE, b'{"catalogue": null, "parameters": null, "labels": null, "job": null}')
    assert read_record(store, told.append) == nothing
    assert told == []


def test_tracking_says_what_is_damaged_and_does_without_the_job_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    create_database(tmp_path / "runs.db")
    spec = TrackingSpec(uri=f"sqlite:///{tmp_path}/runs.db")
    store = open_store(str(tmp_path / "out"))
    (part,) = written(tmp_path / "out", "a")
    store.write(JOB_FILE, b"{")
    links, warnings = tracked(store, spec, tracked_rows())
    assert links
    assert not warnings
    cut(part)
    links, warnings = tracked(store, spec, tracked_rows())
    assert not links
    assert str(part) in warnings[-1]
    assert "does not take runs" not in warnings[-1]


def test_a_folder_of_covers_takes_no_pairs_though_its_job_file_is_damaged(tmp_path: Path) -> None:
    writer = ResultWriter(open_store(str(tmp_path)), RESULTS)
    writer.add(as_table([{"item_id": "i", "track_id": "t", "status": "ok", "model_fingerprint": "f"}]))
    writer.flush()
    (tmp_path / JOB_FILE).write_bytes(b"{")
    (tmp_path / "p.csv").write_text("source,output\na.wav,b.wav\n")
    with pytest.raises(RestyleError, match="give the pairs a folder of their own"):
        measure_all(MeasureJob(str(tmp_path), str(tmp_path / "p.csv")), print)


def test_a_part_damaged_while_the_service_runs_costs_a_cover_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, track, item = open_store(str(tmp_path)), "0" * 20, "1" * 20
    ids = {"track_id": track, "item_id": item, "audio_path": f"audio/{track}/{item}.flac"}
    part = tmp_path / write_part(store, RESULTS, "1", 0, as_table([ids | {"status": "ok"}]))
    store.write(ids["audio_path"], b"audio")
    shelf = GenerationStore(store)
    row = shelf.row(track, item)
    assert row is not None
    assert row["item_id"] == item
    cut(part)
    assert shelf.row(track, item) is None
    assert str(part) in caplog.text
    shelf.rows.drop(track, item)
    shelf.rows.write_anew()  # of a part that is damaged nothing can be dropped
    assert part.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": 1}', b'{"written_at": 5, "track": 7}'])
def test_a_damaged_order_is_named_and_the_others_go_on(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(str(tmp_path))
    shelf = GenerationStore(store)
    order = GenerationRequest("whole", {"track_id": "t", "items": [{"item_id": "i"}]}, ("i",))
    shelf.opened(order)
    store.write(f"{OPEN}/damaged.json", content)
    assert [found.id for found in shelf.left_open()] == ["whole"]
    assert "damaged.json" in caplog.text
    store.write(f"{ORDERS}/damaged.json", content)
    assert shelf.finished("damaged") is None


def test_no_word_of_an_order_changes_unnoticed(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    shelf = GenerationStore(store)
    order = GenerationRequest(
        "o", {"track_id": "t", "items": [{"item_id": "i", "seed": 7}], "prompt": "jazz"}, ("i",)
    )
    shelf.opened(order)
    name, rng = f"{OPEN}/o.json", random.Random(0)
    whole = store.read(name)
    for place in range(len(whole)):
        store.write(name, bytes([*whole[:place], whole[place] ^ 1 << rng.randrange(7), *whole[place + 1 :]]))
        assert list(shelf.left_open()) in ([], [order])


def test_a_job_file_survives_json(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    record = {"catalogue": "songs", "labels": {"a": "b"}, "parameters": {"x": 1}, "job": {"manifest": "m.csv"}}
    store.write(JOB_FILE, json.dumps(record).encode())
    assert read_record(store) == record
