"""Result parts are whole or absent, and a folder knows what it holds."""

import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.results.columns import SCHEMA
from pipeline.results.finished_items import finished_items
from pipeline.results.journal import receipt_name, receipt_of, write_receipt
from pipeline.results.reader import REJECTED, RESULTS, current_rows, newest_of_each, read_results
from pipeline.results.writer import ResultWriter, as_table
from pipeline.storage.parquet_parts import part_names, write_part
from pipeline.storage.store import StorageError, open_store
from pipeline.worker.attempts import AttemptGuard, WorkerDiedError, mark_start
from tests.pipeline.planning import scale as planning_scale


def row(item: str, status: str = "ok") -> dict:
    return {"item_id": item, "track_id": "t", "status": status}


def test_parts_roll_and_read_back(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out"))
    assert finished_items(store) == set()
    writer = ResultWriter(store, RESULTS, max_rows=2)
    for item in "abc":
        writer.add(as_table([row(item)]))
    assert len(store.files(RESULTS, ".parquet")) == 1
    writer.flush()
    writer.flush()
    assert len(store.files(RESULTS, ".parquet")) == 2
    other = ResultWriter(store, REJECTED, max_seconds=0)
    other.add(as_table([row("d", "rejected")]))
    assert read_results(store)["item_id"].to_pylist() == ["a", "b", "c"]
    assert read_results(store).schema.equals(SCHEMA)
    assert finished_items(store) == set("abcd")
    assert not list(tmp_path.rglob("*.tmp"))


def test_parts_and_receipts_without_a_data_dictionary_stand_beside_those_with_one(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    bare = pa.schema([field.remove_metadata() for field in SCHEMA])
    write_part(store, RESULTS, "20260101", 0, pa.Table.from_pylist([row("a")], schema=bare))
    writer = ResultWriter(store, RESULTS)
    writer.add(as_table([row("b")]))
    writer.flush()
    old, new = (pq.read_schema(tmp_path / name) for name in part_names(store, RESULTS))
    assert (old.field("t_switch").metadata, new.field("audio_bytes").metadata[b"unit"]) == (None, b"bytes")
    assert new.field("t_switch").metadata[b"meaning"].startswith(b"Flow time of the first step without the source")
    found = read_results(store)
    assert found["item_id"].to_pylist() == ["a", "b"]
    assert found.schema.equals(SCHEMA, check_metadata=True)
    assert finished_items(store) == {"a", "b"}

    write_receipt(store, row("c"))
    receipt = store.read(receipt_name("t", "c"))
    assert receipt.startswith(bare.serialize().to_pybytes())
    assert (receipt_of(store, "t", "c") or {})["item_id"] == "c"


def test_the_row_that_counts_is_the_ok_one_else_the_newest(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for k, rows in enumerate(
        (
            [row("a", "failed"), row("b"), row("c", "failed")],
            [row("a"), row("c", "failed") | {"error_kind": "late"}],
        )
    ):
        writer = ResultWriter(store, RESULTS)
        writer.launch = f"2026010{k}"
        writer.add(as_table(rows))
        writer.flush()
    found = {r["item_id"]: r for r in current_rows(store).to_pylist()}
    assert {item: r["status"] for item, r in found.items()} == {"a": "ok", "b": "ok", "c": "failed"}
    assert found["c"]["error_kind"] == "late"
    assert set(current_rows(store, {"a"})["item_id"].to_pylist()) == {"a"}
    assert finished_items(store) == {"a", "b", "c"}
    assert finished_items(store, retry_failed=True) == {"a", "b"}


def test_unknown_columns_are_an_error() -> None:
    with pytest.raises(KeyError, match="guidence"):
        as_table([row("a") | {"guidence": 1}])


def test_unknown_scheme() -> None:
    with pytest.raises(StorageError, match="nope://bucket/out: not a location"):
        open_store("nope://bucket/out")


DIE_INSIDE = """
import os, sys
from pipeline.worker.restyle_worker import AttemptGuard
from pipeline.storage.store import open_store
with AttemptGuard(open_store(sys.argv[1]), "item", 2):
    os._exit(9)
"""


def test_the_newest_words_stand_for_a_cover(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for words in ("jazz", "rock"):
        writer = ResultWriter(store, RESULTS)
        of_setting = {"setting_id": "s", "caption": words, "status": "ok"}
        tracks = ("a", "b") if words == "jazz" else ("a",)
        made = [{"item_id": f"{words} {t} {k}", "track_id": t, "seed": k} for t in tracks for k in (1, 2)]
        others = [{"item_id": f"{words} theirs {k}", "track_id": "a", "seed": None} for k in (1, 2)]
        writer.add(as_table(found | of_setting for found in (*made, *others)))
        writer.flush()
    rows = newest_of_each(current_rows(store)).to_pylist()
    found = [(row["track_id"], row["seed"], row["caption"]) for row in rows if row["seed"]]
    assert sorted(found) == [("a", 1, "rock"), ("a", 2, "rock"), ("b", 1, "jazz"), ("b", 2, "jazz")]
    assert sum(row["seed"] is None for row in rows) == 4  # what others made without a seed is all kept
    assert len(newest_of_each(current_rows(open_store(str(tmp_path / "empty"))))) == 0


def test_an_item_that_kills_its_process_is_given_up(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for _ in range(2):
        died = subprocess.run([sys.executable, "-c", DIE_INSIDE, str(tmp_path)], cwd=Path(__file__).parents[3])
        assert died.returncode == 9
    with pytest.raises(WorkerDiedError, match="died 2 times"), AttemptGuard(store, "item", 2):
        pass
    mark_start(store, "later")
    with AttemptGuard(store, "item", 2) as guard:  # a later launch may try again
        assert guard.attempt == 1
    broken = DIE_INSIDE.replace("os._exit(9)", "import torch; raise torch.AcceleratorError('broken')")
    left = subprocess.run([sys.executable, "-c", broken, str(tmp_path)], cwd=Path(__file__).parents[3])
    assert left.returncode == 1
    assert AttemptGuard(store, "item", 3).attempt == 2
    store.delete_folder("attempts")
    with pytest.raises(ValueError, match="plain"), AttemptGuard(store, "item", 2):
        raise ValueError("a plain error is no death")
    assert AttemptGuard(store, "item", 2).attempt == 1


@pytest.mark.parametrize("tracks", [4000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_second_launch_on_a_large_folder_plans_only_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tracks: int
) -> None:
    folder = tmp_path / "large"
    planning_scale.write_catalogue(folder, tracks)
    started = time.perf_counter()
    planning_scale.relaunch(folder)
    assert time.perf_counter() - started < 20  # about 1 s on an idle machine
    done = tracks * 99 // 100
    assert f"{tracks - done} to do, {done} done, {done} ok in the results" in capsys.readouterr().out
