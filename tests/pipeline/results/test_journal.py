"""Receipts and markers: what a death may cost, and what it may not."""

import random
from pathlib import Path

import pytest

from pipeline.results.collector import ResultCollector
from pipeline.results.journal import (
    LAST,
    TASK,
    Journal,
    read_receipts,
    receipt_of,
    unwritten_receipts,
    write_receipt,
)
from pipeline.results.reader import read_results
from pipeline.results.writer import as_table
from pipeline.storage.store import Store, open_store
from pipeline.worker.attempts import AttemptGuard, WorkerDiedError


def row(track: str, item: str, status: str = "ok") -> dict[str, str]:
    return {"track_id": track, "item_id": item, "status": status}


def from_worker(track: str, item: str, task: str, last: bool, status: str = "ok"):
    return as_table([row(track, item, status)]).append_column(TASK, [[task]]).append_column(LAST, [[last]])


def held(store: Store, track: str, *items: str) -> set[str]:
    """Which of some items have a receipt."""
    return {item for item in items if receipt_of(store, track, item) is not None}


def rows_of(store: Store) -> list[dict]:
    """The rows of all receipts."""
    return [row for table, _ in read_receipts(store, unwritten_receipts(store), 1000) for row in table.to_pylist()]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_a_tasks_receipts_stay_until_all_of_it_is_written(store: Store) -> None:
    """A task of two tracks: the first one's receipt is needed while the second may bring the worker down."""
    collector = ResultCollector(store)
    for track in ("a", "b"):
        write_receipt(store, row(track, f"{track}1"))
    collector.add_new(from_worker("a", "a1", "a1", last=False))
    collector.flush()
    assert held(store, "a", "a1")
    collector.add_new(from_worker("b", "b1", "a1", last=True))
    assert held(store, "b", "b1")
    collector.flush()
    assert not unwritten_receipts(store)
    assert read_results(store)["item_id"].to_pylist() == ["a1", "b1"]


def test_what_a_killed_driver_did_not_write_is_adopted_once(store: Store) -> None:
    before = ResultCollector(store)
    write_receipt(store, row("a", "a1"))
    before.add(as_table([row("a", "a1"), row("b", "b1", "failed")]))
    before.flush()
    write_receipt(store, row("b", "b1"))  # retried, and this time it came out
    write_receipt(store, row("c", "c1"))
    after = ResultCollector(store)
    after.recover_receipts()
    assert sorted(read_results(store)["item_id"].to_pylist()) == ["a1", "b1", "b1", "c1"]
    assert read_results(store)["status"].to_pylist().count("ok") == 3
    after.recover_receipts()
    assert len(read_results(store)) == 4


@pytest.mark.parametrize("cut", [0, 3, 100, -1, -4, -12])
def test_half_a_receipt_is_none(store: Store, caplog: pytest.LogCaptureFixture, cut: int) -> None:
    for item in ("a1", "a2"):
        write_receipt(store, row("a", item))
    whole = store.read("receipts/a/a2.arrow")
    store.write("receipts/a/a2.arrow", whole[:cut])
    # Without its checksum alone it is a receipt as earlier versions left it.
    expected = {"a1", "a2"} if cut == -4 else {"a1"}
    assert held(store, "a", "a1", "a2") == expected
    assert {found["item_id"] for found in rows_of(store)} == expected
    assert ("a2.arrow is no receipt" in caplog.text) == (cut != -4)


def test_a_receipt_with_a_flipped_bit_is_none(store: Store) -> None:
    """Whichever bit it is: without the checksum some would be taken, as other numbers or words."""
    write_receipt(store, row("a", "a1") | {"caption": "jazz", "seed": 7})
    whole = store.read("receipts/a/a1.arrow")
    places = random.Random(0).sample(range(len(whole)), 200)
    for place in places:
        store.write("receipts/a/a1.arrow", bytes([*whole[:place], whole[place] ^ 1, *whole[place + 1 :]]))
        assert receipt_of(store, "a", "a1") is None
        assert rows_of(store) == []


def test_another_items_receipt_is_none(store: Store) -> None:
    write_receipt(store, row("a", "a1"))
    for name in ("receipts/a/a2.arrow", "receipts/b/a1.arrow"):
        store.write(name, store.read("receipts/a/a1.arrow"))
    assert held(store, "a", "a1", "a2") == {"a1"}
    assert held(store, "b", "a1") == set()
    assert [found["item_id"] for found in rows_of(store)] == ["a1"]


def test_one_items_receipt_is_read_and_no_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(5):
        write_receipt(store, row("a", f"a{k}"))
    reads: list[str] = []
    read = Store.read
    monkeypatch.setattr(Store, "read", lambda self, name: (reads.append(name), read(self, name))[1])
    assert held(store, "a", "a3", "none") == {"a3"}
    assert reads == ["receipts/a/a3.arrow", "receipts/a/none.arrow"]


def test_receipts_are_adopted_in_batches_and_one_that_broke_off_is_finished(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.results.journal.BATCH", 10)
    for k in range(70):
        write_receipt(store, row(f"t{k % 3}", f"i{k}"))
    writes: list[str] = []
    write = Store.write

    def failing(self: Store, name: str, content: bytes) -> None:
        writes.append(name)
        if len(writes) == 3:
            raise OSError(28, "No space left on device")
        write(self, name, content)

    monkeypatch.setattr(Store, "write", failing)
    collector = ResultCollector(store)
    collector.results.max_rows = 20
    with pytest.raises(OSError, match="No space"):
        collector.recover_receipts()
    assert len(read_results(store)) == 40
    assert len(unwritten_receipts(store)) == 30
    ResultCollector(store).recover_receipts()
    assert sorted(read_results(store)["item_id"].to_pylist()) == sorted(f"i{k}" for k in range(70))
    assert len(store.files("results", ".parquet")) == 3
    assert unwritten_receipts(store) == []


def test_no_more_receipts_are_in_memory_than_a_part_has_rows(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(50):
        write_receipt(store, row("a", f"a{k:02d}"))
    reads: list[str] = []
    read = Store.read
    monkeypatch.setattr(Store, "read", lambda self, name: (reads.append(name), read(self, name))[1])
    sizes = []
    for number, (rows, names) in enumerate(read_receipts(store, unwritten_receipts(store), 20), start=1):
        assert len(reads) == min(20 * number, 50)
        assert len(rows) == len(names)
        assert rows["item_id"].num_chunks <= 2
        sizes.append(len(rows))
    assert sizes == [20, 20, 10]


def test_receipts_of_rows_that_are_written_are_not_read(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    collector = ResultCollector(store)
    collector.add(as_table([row("a", "a1")]))
    collector.flush()
    store.write("receipts/a/a1.arrow", b"garbage, and nobody looks")
    collector.recover_receipts()
    assert caplog.text == ""
    assert unwritten_receipts(store) == []


def test_receipts_go_only_when_their_rows_were_taken(store: Store) -> None:
    journal = Journal(store)
    write_receipt(store, row("a", "a1"))
    journal.written()
    assert held(store, "a", "a1")
    journal.seen(from_worker("a", "a1", "a1", last=True))
    journal.written()
    assert not held(store, "a", "a1")


def test_an_item_that_was_given_up_stays_given_up_when_its_task_runs_again(store: Store) -> None:
    """Otherwise each of several such items in one task would cost the others' deaths again."""
    for _ in range(3):
        AttemptGuard(store, "launch/item", 3).__enter__()  # and the process is gone
    for _ in range(2):
        with pytest.raises(WorkerDiedError, match="died 3 times"):
            AttemptGuard(store, "launch/item", 3).__enter__()
