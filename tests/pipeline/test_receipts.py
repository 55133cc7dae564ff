"""Receipts and markers: what a death may cost, and what it may not."""

from pathlib import Path

import pytest

from pipeline.attempts import AttemptGuard, WorkerDiedError
from pipeline.receipts import LAST, TASK, Receipts, leave, left_over, of_track
from pipeline.restyle import Kept
from pipeline.results import as_table, read_results
from pipeline.storage import Store, open_store


def row(track: str, item: str, status: str = "ok") -> dict[str, str]:
    return {"track_id": track, "item_id": item, "status": status}


def from_worker(track: str, item: str, task: str, last: bool, status: str = "ok"):
    return as_table([row(track, item, status)]).append_column(TASK, [[task]]).append_column(LAST, [[last]])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_a_tasks_receipts_stay_until_all_of_it_is_written(store: Store) -> None:
    """A task of two tracks: the first one's receipt is needed while the second may bring the worker down."""
    kept = Kept(store)
    for track in ("a", "b"):
        leave(store, row(track, f"{track}1"))
    kept.add_new(from_worker("a", "a1", "a1", last=False))
    kept.flush()
    assert set(of_track(store, "a")) == {"a1"}
    kept.add_new(from_worker("b", "b1", "a1", last=True))
    assert set(of_track(store, "b")) == {"b1"}
    kept.flush()
    assert not len(left_over(store))
    assert read_results(store)["item_id"].to_pylist() == ["a1", "b1"]


def test_what_a_killed_driver_did_not_write_is_adopted_once(store: Store) -> None:
    before = Kept(store)
    leave(store, row("a", "a1"))
    before.add(as_table([row("a", "a1"), row("b", "b1", "failed")]))
    before.flush()
    leave(store, row("b", "b1"))  # retried, and this time it came out
    leave(store, row("c", "c1"))
    after = Kept(store)
    after.adopt()
    assert sorted(read_results(store)["item_id"].to_pylist()) == ["a1", "b1", "b1", "c1"]
    assert read_results(store)["status"].to_pylist().count("ok") == 3
    after.adopt()
    assert len(read_results(store)) == 4


def test_half_a_receipt_is_none(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    leave(store, row("a", "a1"))
    store.write("receipts/a/a2.arrow", store.read("receipts/a/a1.arrow")[:100])
    store.write("receipts/a/a3.arrow", b"")
    assert set(of_track(store, "a")) == {"a1"}
    assert left_over(store)["item_id"].to_pylist() == ["a1"]
    assert "a3.arrow is no receipt" in caplog.text


def test_receipts_go_only_when_their_rows_were_taken(store: Store) -> None:
    receipts = Receipts(store)
    leave(store, row("a", "a1"))
    receipts.written()
    assert set(of_track(store, "a")) == {"a1"}
    receipts.seen(from_worker("a", "a1", "a1", last=True))
    receipts.written()
    assert of_track(store, "a") == {}


def test_an_item_that_was_given_up_stays_given_up_when_its_task_runs_again(store: Store) -> None:
    """Otherwise each of several such items in one task would cost the others' deaths again."""
    for _ in range(3):
        AttemptGuard(store, "launch/item", 3).__enter__()  # and the process is gone
    for _ in range(2):
        with pytest.raises(WorkerDiedError, match="died 3 times"):
            AttemptGuard(store, "launch/item", 3).__enter__()
