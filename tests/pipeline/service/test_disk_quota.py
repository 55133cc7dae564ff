"""A bounded store: what is refused is not kept, the least recently used goes, what is in use stays."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from acestep.errors import RequestError
from pipeline.results.journal import write_receipt
from pipeline.results.reader import RESULTS, read_results
from pipeline.results.writer import ResultWriter, as_table
from pipeline.service.config import StoreSpec
from pipeline.service.disk_quota import RESERVE_BYTES, DiskQuota
from pipeline.service.generation_store import GenerationStore
from pipeline.service.problem_details import ProblemError
from pipeline.service.scratch import SCRATCH
from pipeline.storage.store import open_store

MB = 1_000_000


def test_the_least_recently_used_goes_first() -> None:
    removed: list[str] = []
    quota = DiskQuota(StoreSpec(max_gb=20_000e-9), removed.append)
    for name in "abcd":
        quota.add(name, 4096)
    quota.used("a")
    quota.add("e", 4096)
    assert (removed, quota.kept) == (["b"], 4 * 4096)
    with quota.holding("c"):
        quota.add("f", 2 * 4096)
        assert removed == ["b", "d", "a"]
    quota.add("g", 1)  # a small file takes a block
    assert removed == ["b", "d", "a", "c"]


def test_what_was_not_used_for_days_goes_and_what_is_held_stays() -> None:
    removed: list[str] = []
    quota = DiskQuota(StoreSpec(keep_days=2), removed.append)
    now = time.time()
    quota.fill([("old", 1, now - 3 * 86_400), ("held", 1, now - 3 * 86_400), ("young", 1, now - 86_400)])
    quota.hold("held")
    quota.evict()
    assert removed == ["old"]
    quota.release("held")
    quota.evict()
    assert removed == ["old", "held"]


def test_what_cannot_be_removed_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    removed: list[str] = []

    def remove(name: str) -> None:
        if name == "a":
            raise PermissionError("no")
        removed.append(name)

    quota = DiskQuota(StoreSpec(max_gb=8192e-9), remove)
    for name in "abcd":
        quota.add(name, 4096)
    quota.evict()
    assert "b" in removed
    assert "a" in quota
    assert "a cannot be removed" in caplog.text


def test_a_start_on_a_full_disk_bounds_nothing_for_ever() -> None:
    free = [0]
    quota = DiskQuota(StoreSpec(max_gb=0.1), free=lambda: free[0])
    quota.fill([])
    with pytest.raises(ProblemError):
        quota.demand(MB)
    free[0] = 1000 * MB
    quota.look()
    quota.demand(MB)
    assert quota.max_bytes == 100 * MB
    free[0] = 0
    quota.look()  # whoever fills the disk takes none of what is kept
    assert quota.max_bytes == 100 * MB


def test_storage_that_is_slow_to_remove_a_file_holds_up_nobody() -> None:
    """Whoever needs the very file waits until it is known whether it is there."""
    removing, may_end = threading.Event(), threading.Event()
    removed: list[str] = []

    def remove(name: str) -> None:
        removing.set()
        assert may_end.wait(60)
        removed.append(name)

    quota = DiskQuota(StoreSpec(max_gb=8192e-9), remove)
    quota.add("a", 4096)
    quota.add("b", 4096)
    adding = threading.Thread(target=quota.add, args=("c", 4096))
    adding.start()
    assert removing.wait(60)

    def work_on() -> None:
        quota.hold("a")
        quota.state()
        quota.demand(1)
        quota.wait_for_removals("b")

    others = threading.Thread(target=work_on)
    others.start()
    others.join(60)
    assert not others.is_alive()
    settling = threading.Thread(target=quota.wait_for_removals, args=("a",))
    settling.start()
    settling.join(0.1)
    assert settling.is_alive()
    quota.evict()  # what goes already is counted, so that nothing else goes for it
    may_end.set()
    for thread in (adding, settling):
        thread.join(60)
        assert not thread.is_alive()
    assert (removed, "a" in quota, quota.kept) == (["a"], False, 8192)


def test_a_request_that_needs_more_than_there_is_is_refused_before_it_is_made() -> None:
    free = [RESERVE_BYTES + 10 * MB]
    quota = DiskQuota(StoreSpec(max_gb=0.1), free=lambda: free[0])
    quota.look()
    quota.max_bytes = 100 * MB
    quota.reserve({"a": 6 * MB})
    with pytest.raises(ProblemError) as short:
        quota.reserve({"b": 6 * MB})
    assert (short.value.status, short.value.kind, short.value.retry_after_s) == (507, "short_of_space", 60)
    assert not quota.state()["short"]
    free[0] = RESERVE_BYTES - 1
    quota.look()
    assert quota.state()["short"]
    free[0] = 1000 * MB
    quota.look()
    quota.reserve({"b": 6 * MB})
    quota.end_reservation("a")
    quota.add("held", 90 * MB)
    quota.hold("held")
    with pytest.raises(ProblemError, match="in use"):
        quota.reserve({"c": 6 * MB})


def test_a_disk_with_less_room_than_asked_for_bounds_it_too() -> None:
    quota = DiskQuota(StoreSpec(max_gb=1000), free=lambda: 100 * MB)
    quota.fill([])
    assert quota.state()["most_bytes"] == 90 * MB


def test_accounting_of_many_files_takes_no_time() -> None:
    """10^5 files: a request costs microseconds, and none of them a look at the folder."""
    quota = DiskQuota(StoreSpec(max_gb=100_000 * 4096e-9))
    quota.fill((str(k), 4096, float(k)) for k in range(100_000))
    began = time.process_time()
    for k in range(1000):
        with quota.holding(str(k)):
            quota.used(str(k))
            quota.reserve({"x": 4096})
            quota.add(f"new {k}", 4096)
            quota.end_reservation("x")
    assert time.process_time() - began < 0.5
    assert len(quota.entries) <= 100_000


@pytest.mark.parametrize("values", [{"max_gb": 0}, {"max_gb": -1.0}, {"keep_days": 0}, {"keep_days": -3.0}])
def test_bounds_are_positive(values: dict[str, float]) -> None:
    with pytest.raises(RequestError, match=next(iter(values))):
        StoreSpec(**values)


def row(item: str, track: str = "0" * 20, **more: Any) -> dict[str, Any]:
    path = f"audio/{track}/{item}.flac"
    return {"item_id": item, "track_id": track, "status": "ok", "audio_path": path, "audio_bytes": 1, **more}


def test_receipts_become_parts_and_rows_of_removed_covers_go(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for k in range(5):
        write_receipt(store, row(f"{k:020x}"))
        store.write(row(f"{k:020x}")["audio_path"], b"x")
    generation_store = GenerationStore(store)
    assert [len(rows) for rows in generation_store.rows.fold()] == [5]
    assert not store.files("receipts", "", deep=True)
    found = generation_store.row("0" * 20, f"{3:020x}")
    assert found
    assert found["audio_path"] == f"audio/{'0' * 20}/{3:020x}.flac"
    generation_store.quota.discard(found["audio_path"])
    assert generation_store.row("0" * 20, f"{3:020x}") is None
    write_receipt(store, row(f"{4:020x}", duration_s=2.0))  # made again
    for _ in generation_store.rows.fold():
        pass
    generation_store.rows.write_anew()
    left = read_results(store).to_pylist()
    assert sorted(one["item_id"] for one in left) == [f"{k:020x}" for k in (0, 1, 2, 4)]
    assert generation_store.row("0" * 20, f"{4:020x}")["duration_s"] == 2.0
    store.write(row(f"{4:020x}")["audio_path"], b"")  # cut: as good as none
    assert generation_store.row("0" * 20, f"{4:020x}") is None


def test_a_catalogues_rows_and_covers_are_left_alone(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    writer = ResultWriter(store, RESULTS)
    ours, theirs = row("a" * 20), row("b" * 20, track="country_song")
    writer.add(as_table([ours, theirs, row("c" * 20, status="failed")]))
    writer.flush()
    store.write(theirs["audio_path"], b"x")
    store.write("uploads/README", b"x")
    store.write("batches/mine/manifest.csv", b"x")
    generation_store = GenerationStore(store, StoreSpec(max_gb=1e-9))
    generation_store.quota.evict()
    assert not len(generation_store.quota.entries)
    assert store.exists(theirs["audio_path"])
    assert store.exists("uploads/README")
    # Of the service's own rows the one whose file is gone is dropped, and that of no file stays.
    assert sorted(read_results(store)["item_id"].to_pylist()) == ["b" * 20, "c" * 20]


def test_a_start_reads_uses_of_before_and_cleans_up(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    kept = [f"uploads/{k:064x}" for k in range(3)]
    for k, name in enumerate(kept):
        store.write(name, b"x")
        os.utime(store.path(name), (1e9 + k, 1e9 + k))
    store.write(f"orders/a.json.{'0' * 32}.tmp", b"x")
    store.write("uploads/tmpabc_12de", b"x")
    store.write(f"{SCRATCH}/left", b"x")
    generation_store = GenerationStore(store)
    assert sorted(os.listdir(tmp_path / "uploads")) == [name.removeprefix("uploads/") for name in kept]
    assert not os.listdir(tmp_path / "orders")
    assert not os.listdir(tmp_path / SCRATCH)
    assert list(generation_store.quota.entries) == kept
    generation_store.quota.used(kept[0])
    assert list(GenerationStore(store).quota.entries) == [*kept[1:], kept[0]]
