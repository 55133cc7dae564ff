"""A track that does not fit into memory is isolated; those in the same worker's hands are not blamed."""

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.storage.store import Store, open_store
from pipeline.worker.attempts import AttemptGuard, WorkerDiedError, WorkerMemoryError, under_way
from pipeline.worker.shared_lock import SharedLock
from tests.launched import ROOT, python


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_a_track_that_does_not_fit_under_a_limit_of_memory(tmp_path: Path) -> None:
    """As under `ulimit -v`: allocations fail, and whoever is at work then feels it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = python(["-m", "tests.pipeline.worker.limited_memory", str(tmp_path), "350", "590"], environment, ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["tracks"].pop("long") == ["failed", "out_of_memory"]
    assert found["tracks"] == {f"short{k}": ["ok", None] for k in range(4)}
    assert found["markers"] == ["attempts/test/started"]


def died(store: Store, times: int) -> None:
    """Leave the markers of processes that died at an item."""
    for _ in range(times):
        AttemptGuard(store, "launch/item", 3, "item item of track a").__enter__()


def test_a_death_by_the_kernel_for_lack_of_memory_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = tmp_path / "vmstat"
    monkeypatch.setattr("pipeline.worker.attempts.COUNTERS", counters)
    for name, after, expected in (("crash", 4, WorkerDiedError), ("killed", 5, WorkerMemoryError)):
        store = open_store(str(tmp_path / name))
        counters.write_text("pgfault 7\noom_kill 4\n")
        died(store, 3)
        counters.write_text(f"pgfault 9\noom_kill {after}\n")
        with pytest.raises(WorkerDiedError) as told:
            AttemptGuard(store, "launch/item", 3).__enter__()
        assert type(told.value) is expected


def test_what_is_under_way_has_a_name_an_owner_and_an_age(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    died(store, 2)
    (tmp_path / "attempts" / "launch" / "started").write_bytes(b"")
    found = under_way(store, "launch")
    assert [(one.what, one.pid) for one in found] == [("item item of track a", os.getpid())] * 2
    assert time.time() - 60 < found[0].since <= found[1].since <= time.time()


def test_alone_is_alone_and_does_not_wait_for_ever() -> None:
    sharing, log, inside = SharedLock(), [], []

    def beside() -> None:
        for _ in range(20):
            with sharing.together():
                inside.append(1)
                log.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    def by_itself() -> None:
        for _ in range(5):
            with sharing.alone():
                assert not inside
                inside.append(1)
                time.sleep(0.005)
                assert len(inside) == 1
                inside.pop()

    threads = [threading.Thread(target=work) for work in (beside, beside, beside, by_itself, by_itself)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert max(log) > 1
