"""A job that stands still, loses its workers or cannot stop says so, and ends where nothing can follow."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from pipeline.cluster.errors import PoolError, StoppedError
from pipeline.cluster.pool import size_pool
from pipeline.cluster.spec import ClusterSpec
from pipeline.cluster.worker_deaths import WorkerDeath
from pipeline.worker.attempts import UnderWay
from pipeline.workflows import watchdog as module
from pipeline.workflows.watchdog import (
    Watchdog,
    WatchdogView,
    ask_within_timeout,
    describe_cluster,
    running_watchdog,
)


class Pool:
    """What a watch looks at, by hand, and what it said."""

    def __init__(self) -> None:
        self.lost: str | None = None
        self.deaths: list[WorkerDeath] = []
        self.ready = 1
        self.under_way: list[UnderWay] = []
        self.said: list[str] = []
        self.errors: list[Exception] = []
        self.abandoned: list[Exception] = []

    def die(self, count: int = 1, for_memory: bool = True) -> None:
        first = len(self.deaths)
        self.deaths += [
            WorkerDeath(f"w{first + k}", 100 + k, for_memory, "Memory usage 9 exceeded 8") for k in range(count)
        ]

    def begin(self, what: str, ago_s: float = 0.0, worker: str = "w") -> None:
        self.under_way.append(UnderWay(what, "node", 1, worker, time.time() - ago_s))

    @contextmanager
    def watched(self, **settings: Any) -> Iterator[Watchdog]:
        looks = WatchdogView(
            lost=lambda: self.lost,
            deaths=lambda: self.deaths,
            ready=lambda: self.ready,
            under_way=lambda: self.under_way,
            describe=lambda: "the cluster has 1 node alive",
        )
        with running_watchdog(
            Watchdog(self.said.append, self.errors.append, self.abandoned.append, looks, **settings)
        ) as watch:
            yield watch

    def wait(self, of: list[Any], seconds: float = 10.0) -> Any:
        deadline = time.monotonic() + seconds
        while not of and time.monotonic() < deadline:
            time.sleep(0.01)
        assert of, "it says nothing"
        return of[0]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"LOOK_S": 0.02, "FIRST_S": 0.3, "MIN_S": 0.3, "LEAVE_S": 0.1, "QUIET_S": 0.3}.items():
        monkeypatch.setattr(module, name, seconds)


@pytest.fixture
def pool() -> Pool:
    return Pool()


def test_silence_names_what_is_under_way_and_is_told_again_after_twice_as_long(pool: Pool) -> None:
    pool.begin("item x of track slow", ago_s=40.0)
    with pool.watched() as watch:
        watch.covers_finished(0.01)
        assert "item x of track slow for 4" in pool.wait(pool.said)
        pool.said.clear()
        time.sleep(0.35)
        assert len(pool.said) <= 1
    assert not pool.errors


def test_a_job_whose_covers_take_long_is_left_in_peace(pool: Pool) -> None:
    with pool.watched(stall_timeout_s=0.2) as watch:
        watch.covers_finished(0.2)  # so one may take a second, and be given up after four
        time.sleep(0.7)
    assert not pool.said
    assert not pool.errors


def test_a_stalled_job_ends_and_says_what_it_waited_for(pool: Pool) -> None:
    pool.begin("reading /mnt/dead/a.wav", ago_s=7.0)
    with pool.watched(stall_timeout_s=0.4) as watch:
        watch.covers_finished(0.001)
        error = pool.wait(pool.errors)
        assert isinstance(error, PoolError)
        assert "reading /mnt/dead/a.wav" in str(error)
        assert "cluster.stall_timeout_s" in str(error)
        assert pool.wait(pool.abandoned) is error  # nobody left the block


def test_workers_that_die_while_they_start_end_the_job_with_the_reason(pool: Pool) -> None:
    pool.ready = 0
    with pool.watched():
        pool.die(7)  # at once, as idle processes do
        assert "7 killed by Ray's memory monitor" in pool.wait(pool.said)
        time.sleep(0.1)
        assert not pool.errors
        for _ in range(30):
            pool.die(1, for_memory=False)
            time.sleep(0.06)
        error = pool.wait(pool.errors)
    assert isinstance(error, PoolError)
    assert "processes died: 7 killed by" in str(error) or "ended unexpectedly" in str(error)
    assert "RAY_memory_usage_threshold" in str(error)


def test_tracks_that_kill_workers_which_were_ready_do_not_end_the_job(pool: Pool) -> None:
    with pool.watched():
        for _ in range(8):
            pool.ready += 1
            pool.die()
            time.sleep(0.06)
    assert not pool.errors
    assert 2 <= len(pool.said) <= 5  # after 1, 2, 4 and 8 deaths


def test_a_worker_that_makes_a_cover_is_left_to_it_while_others_die(pool: Pool) -> None:
    pool.begin("item x of track long", worker="alive")
    with pool.watched() as watch:
        watch.covers_finished(10.0)
        for _ in range(10):
            pool.die()
            time.sleep(0.06)
        assert not pool.errors
        pool.under_way.clear()
        pool.die()
        assert isinstance(pool.wait(pool.errors), PoolError)


def test_silence_is_told_where_the_storage_does_not_say_who_is_ready(pool: Pool) -> None:
    with pool.watched() as watch:
        watch.looks = replace(watch.looks, ready=lambda: 1 // 0)
        assert "no cover has finished" in pool.wait(pool.said)


def test_a_lost_head_ends_the_job(pool: Pool) -> None:
    with pool.watched():
        pool.lost = "gcs_server was killed by SIGKILL"
        assert "gcs_server was killed by SIGKILL" in str(pool.wait(pool.errors))


def stopped(why: str) -> StoppedError:
    return StoppedError(why, 15)


def test_a_stop_waits_for_what_is_under_way(pool: Pool) -> None:
    pool.begin("track a")
    with pool.watched(stop_timeout_s=60.0) as watch:
        watch.covers_finished(10.0)
        watch.stopping(stopped)
        time.sleep(0.6)
        assert not pool.errors


@pytest.mark.parametrize("case", ["hangs", "too long", "of a dead worker", "nothing"])
def test_a_stop_does_not_wait_for_what_does_not_come(pool: Pool, case: str) -> None:
    if case != "nothing":
        pool.begin("track a", ago_s=3600.0 if case == "hangs" else 0.0, worker="w0")
    if case == "of a dead worker":
        pool.die()
    with pool.watched(stop_timeout_s=0.2 if case == "too long" else 60.0) as watch:
        watch.covers_finished(10.0)
        watch.stopping(stopped)
        error = pool.wait(pool.errors)
    assert isinstance(error, StoppedError)
    assert ("track a" in str(error)) is (case in ("hangs", "too long"))


def test_a_question_that_fails_or_hangs_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.1)
    released = threading.Event()
    assert ask_within_timeout(lambda: released.wait(30)) is None
    assert ask_within_timeout(lambda: 1 // 0) is None
    assert ask_within_timeout(lambda: 7) == 7
    released.set()


def test_the_cluster_in_words(ray_cluster: None) -> None:
    pool = size_pool(ClusterSpec(workers=1, gpus_per_worker=0))
    said = describe_cluster(pool)
    assert said.startswith("the cluster has 1 node alive, ")
    assert said.endswith(" of 2 CPUs free")
