"""Watchdog of the pool: reports failures that raise no exception, and ends the job where nothing can follow.

A thread checks every few seconds: Ray's daemons, dead workers, covers that take far longer than earlier ones and,
after a stop request, the work that is still running.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import ray

from pipeline.cluster.errors import PoolError
from pipeline.cluster.pool import Pool
from pipeline.cluster.worker_deaths import WorkerDeath, in_words, remedy
from pipeline.results.progress import format_duration
from pipeline.worker.attempts import UnderWay

LOOK_S = 2.0
ANSWER_S = 10.0
FIRST_S = 300.0  # of silence before the first cover, when durations are unknown
MIN_S = 60.0
SLOW, STALLED = 5, 20  # times the slowest cover so far
STARTS = 5  # checks with new deaths before any worker is ready
LEAVE_S = 10.0  # timeout of a main thread that hangs in Ray
QUIET_S = 15.0  # without running work, after a stop request
LISTED = 5
log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class WatchdogView:
    """Functions by which the watchdog observes the cluster.

    lost: the name of a dead Ray daemon, or None.
    deaths: processes of this job that died.
    ready: number of workers that have become ready.
    under_way: work that workers, including dead ones, have started and not finished.
    describe: the state of the cluster in a few words.
    """

    lost: Callable[[], str | None]
    deaths: Callable[[], Sequence[WorkerDeath]]
    ready: Callable[[], int]
    under_way: Callable[[], Sequence[UnderWay]]
    describe: Callable[[], str]


class Watchdog:
    """Warns, and ends the job, from a thread.

    warn: called with a message for people.
    end: called with the error that ends the job.
    abandon: called with the error if the job does not end: without its head, Ray may block a thread forever.
    stall_timeout_s: limit for the time without a cover, or ``STALLED`` times the slowest one; None for no limit.
    stop_timeout_s: how long a stop request waits for running covers.
    """

    def __init__(
        self,
        warn: Callable[[str], None],
        end: Callable[[Exception], None],
        abandon: Callable[[Exception], None],
        looks: WatchdogView,
        stall_timeout_s: float | None = None,
        stop_timeout_s: float = 300.0,
    ):
        self.warn, self.end, self.abandon = warn, end, abandon
        self.looks = looks
        self.stall_timeout_s, self.stop_timeout_s = stall_timeout_s, stop_timeout_s
        self.ended = threading.Event()
        self.last = time.monotonic()
        self.slowest_s: float | None = None
        self.told_s = 0.0  # of the current silence, at the last warning
        self.ready_at: float | None = None
        self.ready = self.deaths = self.told_deaths = self.starting = 0
        self.dead: frozenset[str] = frozenset()
        self.on_stop: Callable[[str], Exception] | None = None
        self.stop_at = self.quiet_at = 0.0

    def covers_finished(self, slowest_s: float = 0.0) -> None:
        """Record finished covers, of which the slowest took ``slowest_s``."""
        self.last, self.told_s, self.starting = time.monotonic(), 0.0, 0
        self.slowest_s = max(self.slowest_s or 0.0, slowest_s)

    def stopping(self, error: Callable[[str], Exception]) -> None:
        """Wait for running work after a stop request, within limits.

        Args:
            error: makes the error that ends the job, from a reason.
        """
        self.stop_at = self.quiet_at = time.monotonic()
        self.on_stop = error

    @property
    def patience_s(self) -> float:
        """Silence that needs no warning, in seconds."""
        return FIRST_S if self.slowest_s is None else max(MIN_S, SLOW * self.slowest_s)

    def _run(self) -> None:
        while not self.ended.wait(LOOK_S):
            try:
                error = self._look()
            except Exception as failure:  # such as storage that does not respond; the next check may succeed
                log.debug("the watch sees nothing: %r", failure)
                continue
            if error is not None and not self.ended.is_set():
                self.end(error)
                if not self.ended.wait(LEAVE_S):
                    self.abandon(error)
                return

    def _look(self) -> Exception | None:
        if lost := self.looks.lost():
            return PoolError("cluster_failed", f"Ray's {lost}, and without it the cluster of this job is lost")
        too_often = self._look_at_deaths()
        if too_often is not None:
            return too_often
        return self._look_at_stop(self.on_stop) if self.on_stop is not None else self._look_at_silence()

    def _look_at_deaths(self) -> Exception | None:
        deaths = ask_within_timeout(self.looks.deaths) or ()
        ready = ask_within_timeout(self.looks.ready)
        if ready is not None and ready != self.ready:
            self.ready, self.starting = ready, 0
            self.ready_at = self.ready_at or time.monotonic()
        new, self.deaths = len(deaths) - self.deaths, max(len(deaths), self.deaths)
        if new <= 0:
            return None
        self.dead = frozenset(death.worker_id for death in deaths)
        self.starting += 1  # per check, not per death: Ray's monitor kills idle processes along with a worker
        # Where memory suffices for one worker only, others may die while it makes a long cover.
        if self.starting >= STARTS and not self._at_work():
            return PoolError(
                "cluster_failed",
                f"{in_words(deaths)}, one after the other, and no worker is ready. {remedy(deaths)}",
            )
        if len(deaths) >= 2 * self.told_deaths:
            self.told_deaths = len(deaths)
            self.warn(f"{in_words(deaths)}; what was under way is tried again. {remedy(deaths)}")
        return None

    def _look_at_stop(self, error: Callable[[str], Exception]) -> Exception | None:
        now, waiting = time.monotonic(), self._at_work()
        if waiting:
            self.quiet_at = now
        hanging = bool(waiting) and all(time.time() - one.since > self.patience_s for one in waiting)
        if now - self.quiet_at > QUIET_S:
            return error("nothing is under way and the workers do not answer")
        if hanging or now - self.stop_at > self.stop_timeout_s:
            return error(f"not waited for: {describe_running(waiting)}")
        return None

    def _look_at_silence(self) -> Exception | None:
        silent_s = time.monotonic() - self.last
        worked_s = 0.0 if self.ready_at is None else time.monotonic() - max(self.last, self.ready_at)
        if self.stall_timeout_s is not None:
            limit_s = max(self.stall_timeout_s, STALLED * (self.slowest_s or 0.0))
            if worked_s > limit_s:
                return PoolError(
                    "cluster_failed",
                    f"no cover has finished for {format_duration(worked_s)}",
                    f"{describe_running(self._at_work())}. Look at these tracks and their node, or raise "
                    "cluster.stall_timeout_s where one cover takes that long",
                )
        if silent_s > max(self.patience_s, 2 * self.told_s):
            self.told_s = silent_s
            how = ask_within_timeout(self.looks.describe) or "the cluster does not answer"
            usual = (
                "" if self.slowest_s is None else f" (the slowest so far took {format_duration(self.slowest_s)})"
            )
            self.warn(
                f"no cover has finished for {format_duration(silent_s)}{usual}; "
                f"{describe_running(self._at_work())}; {how}; Ctrl-C stops the job, what is finished is kept"
            )
        return None

    def _at_work(self) -> list[UnderWay]:
        found = ask_within_timeout(self.looks.under_way) or ()
        return [one for one in found if one.worker_id not in self.dead]


def describe_running(found: Sequence[UnderWay]) -> str:
    """Running work in words."""
    if not found:
        return "nothing is under way"
    now = time.time()
    each = [f"{one.what} for {format_duration(max(now - one.since, 0.0))} on {one.node}" for one in found[:LISTED]]
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return f"under way: {', '.join(each)}{more}"


def ask_within_timeout(ask: Callable[[], Answer]) -> Answer | None:
    """The result of ``ask``, or None after a timeout: without its head, a cluster may never answer."""
    answers: list[Answer] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:
            log.debug("%r", error)

    asking = threading.Thread(target=run, name="restyle-ask", daemon=True)
    asking.start()
    asking.join(ANSWER_S)
    return answers[0] if answers else None


@contextmanager
def running_watchdog(watch: Watchdog) -> Iterator[Watchdog]:
    """Run the watchdog during the block."""
    thread = threading.Thread(target=watch._run, name="restyle-watch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.ended.set()


def describe_cluster(pool: Pool) -> str:
    """The current state of a job's cluster, in a few words."""
    nodes = [bool(node["Alive"]) for node in ray.nodes()]
    has, free = ray.cluster_resources(), ray.available_resources()
    alive = sum(nodes)
    said = f"the cluster has {alive} {'node' if alive == 1 else 'nodes'} alive"
    if alive < len(nodes):
        said += f" and {len(nodes) - alive} lost"
    if not pool.gpus_per_worker:
        return f"{said}, {free.get('CPU', 0.0):g} of {has.get('CPU', 0.0):g} CPUs free"
    gpus = f"{free.get('GPU', 0.0):g} of {has.get('GPU', 0.0):g} GPUs free"
    return f"{said}, {gpus}, and {pool.workers} workers need {pool.gpus_per_worker:g} GPU each"
