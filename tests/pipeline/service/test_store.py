"""What a service keeps is bounded: what is refused is not kept, the least recently used goes, what is in use stays."""

import io
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
import soundfile

from acestep.errors import RequestError
from pipeline.receipts import leave
from pipeline.results import RESULTS, ResultWriter, as_table, read_results
from pipeline.service.kept_files import kept_files, remove_unfinished
from pipeline.service.page_files import IN_USE_S, KEPT_S, PageFiles
from pipeline.service.problem import Problem
from pipeline.service.room import RESERVE_BYTES, Room
from pipeline.service.rows import Rows
from pipeline.service.scratch import SCRATCH, emptied, scratch_of
from pipeline.service.shelf import Shelf
from pipeline.service.spec import Limits, StoreSpec
from pipeline.storage import Store, open_store
from tests.conftest import tone
from tests.pipeline.service.conftest import Served, serving

LIMITS = Limits(upload_mb=3.0, body_kb=200.0, source_seconds=30.0, waiting=6)
ASKED = {"caption": "jazz", "inference_steps": 1, "guidance_scale": 1.0, "response_format": "json"}
MB = 1_000_000


def song(pitch_hz: float = 220.0, seconds: float = 1.0, rate: int = 48_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(seconds, rate, pitch_hz=pitch_hz), rate, format="WAV")
    return file.getvalue()


def send(served: Served, content: bytes, **more: Any) -> httpx.Response:
    files = {"src_audio": ("a.wav", content), **more.pop("files", {})}
    return httpx.post(served.generations, files=files, data=ASKED | {"seed": 1} | more, timeout=60)


def names(folder: Path) -> list[str]:
    """What of the service's files is there."""
    return sorted(file.name for file in kept_files(open_store(str(folder))))


@pytest.fixture(scope="module")
def roomy(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(music, tmp_path_factory.mktemp("roomy"), LIMITS) as one:
        yield one


def kept_bytes(folder: Path) -> int:
    return sum(file.size for file in kept_files(open_store(str(folder))))


# -- the accounting alone


def test_the_least_recently_used_goes_first() -> None:
    removed: list[str] = []
    room = Room(StoreSpec(max_gb=20_000e-9), removed.append)
    for name in "abcd":
        room.add(name, 4096)
    room.used("a")
    room.add("e", 4096)
    assert (removed, room.kept) == (["b"], 4 * 4096)
    with room.holding("c"):
        room.add("f", 2 * 4096)
        assert removed == ["b", "d", "a"]
    room.add("g", 1)  # a small file takes a block
    assert removed == ["b", "d", "a", "c"]


def test_what_was_not_used_for_days_goes_and_what_is_held_stays() -> None:
    removed: list[str] = []
    room = Room(StoreSpec(keep_days=2), removed.append)
    now = time.time()
    room.fill([("old", 1, now - 3 * 86_400), ("held", 1, now - 3 * 86_400), ("young", 1, now - 86_400)])
    room.hold("held")
    room.make_way()
    assert removed == ["old"]
    room.release("held")
    room.make_way()
    assert removed == ["old", "held"]


def test_what_cannot_be_removed_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    removed: list[str] = []

    def remove(name: str) -> None:
        if name == "a":
            raise PermissionError("no")
        removed.append(name)

    room = Room(StoreSpec(max_gb=8192e-9), remove)
    for name in "abcd":
        room.add(name, 4096)
    room.make_way()
    assert "b" in removed
    assert "a" in room
    assert "a cannot be removed" in caplog.text


def test_a_request_that_needs_more_than_there_is_is_refused_before_it_is_made() -> None:
    free = [RESERVE_BYTES + 10 * MB]
    room = Room(StoreSpec(max_gb=0.1), free=lambda: free[0])
    room.look()
    room.most = 100 * MB
    room.promise({"a": 6 * MB})
    with pytest.raises(Problem) as short:
        room.promise({"b": 6 * MB})
    assert (short.value.status, short.value.kind, short.value.retry_after_s) == (507, "short_of_space", 60)
    assert not room.state()["short"]
    free[0] = RESERVE_BYTES - 1
    room.look()
    assert room.state()["short"]
    free[0] = 1000 * MB
    room.look()
    room.promise({"b": 6 * MB})
    room.fulfil("a")
    room.add("held", 90 * MB)
    room.hold("held")
    with pytest.raises(Problem, match="in use"):
        room.promise({"c": 6 * MB})


def test_a_disk_with_less_room_than_asked_for_bounds_it_too() -> None:
    room = Room(StoreSpec(max_gb=1000), free=lambda: 100 * MB)
    room.fill([])
    assert room.state()["most_bytes"] == 90 * MB


def test_accounting_of_many_files_takes_no_time() -> None:
    """10^5 files: a request costs microseconds, and none of them a look at the folder."""
    room = Room(StoreSpec(max_gb=100_000 * 4096e-9))
    room.fill((str(k), 4096, float(k)) for k in range(100_000))
    began = time.perf_counter()
    for k in range(1000):
        with room.holding(str(k)):
            room.used(str(k))
            room.promise({"x": 4096})
            room.add(f"new {k}", 4096)
            room.fulfil("x")
    assert time.perf_counter() - began < 0.5
    assert len(room.entries) <= 100_000


@pytest.mark.parametrize("values", [{"max_gb": 0}, {"max_gb": -1.0}, {"keep_days": 0}, {"keep_days": -3.0}])
def test_bounds_are_positive(values: dict[str, float]) -> None:
    with pytest.raises(RequestError, match=next(iter(values))):
        StoreSpec(**values)


# -- rows


def row(item: str, track: str = "0" * 20, **more: Any) -> dict[str, Any]:
    path = f"audio/{track}/{item}.flac"
    return {"item_id": item, "track_id": track, "status": "ok", "audio_path": path, "audio_bytes": 1, **more}


def test_receipts_become_parts_and_rows_of_removed_covers_go(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for k in range(5):
        leave(store, row(f"{k:020x}"))
        store.write(row(f"{k:020x}")["audio_path"], b"x")
    shelf = Shelf(store)
    assert [len(rows) for rows in shelf.rows.fold()] == [5]
    assert not store.files("receipts", "", deep=True)
    found = shelf.row("0" * 20, f"{3:020x}")
    assert found and found["audio_path"] == f"audio/{'0' * 20}/{3:020x}.flac"
    shelf.room.discard(found["audio_path"])
    assert shelf.row("0" * 20, f"{3:020x}") is None
    leave(store, row(f"{4:020x}", duration_s=2.0))  # made again
    for _ in shelf.rows.fold():
        pass
    shelf.rows.write_anew()
    left = read_results(store).to_pylist()
    assert sorted(one["item_id"] for one in left) == [f"{k:020x}" for k in (0, 1, 2, 4)]
    assert shelf.row("0" * 20, f"{4:020x}")["duration_s"] == 2.0


def test_a_catalogues_rows_and_covers_are_left_alone(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    writer = ResultWriter(store, RESULTS)
    ours, theirs = row("a" * 20), row("b" * 20, track="country_song")
    writer.add(as_table([ours, theirs, row("c" * 20, status="failed")]))
    writer.flush()
    store.write(theirs["audio_path"], b"x")
    store.write("uploads/README", b"x")
    store.write("batches/mine/manifest.csv", b"x")
    shelf = Shelf(store, StoreSpec(max_gb=1e-9))
    shelf.room.make_way()
    assert not len(shelf.room.entries)
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
    shelf = Shelf(store)
    assert sorted(os.listdir(tmp_path / "uploads")) == [name.removeprefix("uploads/") for name in kept]
    assert not os.listdir(tmp_path / "orders")
    assert not os.listdir(tmp_path / SCRATCH)
    assert list(shelf.room.entries) == kept
    shelf.room.used(kept[0])
    assert list(Shelf(store).room.entries) == [*kept[1:], kept[0]]
