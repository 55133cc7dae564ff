"""Graceful shutdown: covers in progress are finished and written, no new ones are started."""

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster.signals import ImmediateStop, handle_stop_signals

MAX_WAITING = 10_000
AGAIN_S = 10.0
ANSWER_S = 10.0
log = logging.getLogger(__name__)


class _Flag:
    """Ray actor on the driver's node that holds the stop flag."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.fault = ""

    async def wait(self) -> None:
        await self.requested.wait()

    async def request(self, fault: str) -> None:
        self.fault = self.fault or fault
        self.requested.set()

    async def why(self) -> str:
        return self.fault


class StopFlag:
    """Cluster-wide flag that asks workers to start no new tracks. Reading it needs no message per track."""

    def __init__(self, actor: Any = None):
        self.actor = actor or _start_flag()
        self.waiting: ray.ObjectRef | None = None
        self.requested_here = False

    def __reduce__(self) -> tuple[type["StopFlag"], tuple[Any]]:
        return StopFlag, (self.actor,)

    def request(self, fault: str = "") -> None:
        """Request the stop.

        Args:
            fault: failure that caused it, such as of the output folder; "" for a user's request. The driver sees
                it before the worker's task ends.
        """
        self.requested_here = True
        requesting = self.actor.request.remote(fault)
        if fault:
            ray.wait([requesting], timeout=ANSWER_S)

    @property
    def requested(self) -> bool:
        """Whether a stop was requested; False if the flag's node is lost."""
        if self.requested_here:
            return True
        if self.waiting is None:
            self.waiting = self.actor.wait.remote()
        if not ray.wait([self.waiting], timeout=0)[0]:
            return False
        try:
            ray.get(self.waiting)
        except RayError:
            return False
        return True

    def fault(self) -> str:
        """The first fault passed to ``request``, or ""."""
        try:
            return str(ray.get(self.actor.why.remote(), timeout=ANSWER_S))
        except RayError:
            return ""


def _start_flag() -> Any:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    flag = ray.remote(_Flag).options(num_cpus=0, max_concurrency=MAX_WAITING, scheduling_strategy=here)
    return flag.remote()


class StopRequest:
    """State of a stop request.

    signal: number of the received signal, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.came = threading.Event()
        self.error: Exception | None = None
        self.interrupt: Callable[[], None] = lambda: None

    def end(self, error: Exception) -> None:
        """End the ``stop_signals`` block with an error; callable from any thread."""
        self.error = self.error or error
        threading.Thread(target=self.interrupt, name="restyle-end", daemon=True).start()


@contextmanager
def stop_signals(on_first: Callable[[], bool]) -> Iterator[StopRequest]:
    """Within the block, the first SIGINT, SIGTERM or SIGHUP calls ``on_first``; the second raises ImmediateStop.

    If ``on_first`` returns True, there is nothing to wait for and the first signal raises ImmediateStop too. An
    exception of ``on_first`` is logged and counts as False. ImmediateStop carries the first signal.
    ``request.end`` makes the block raise its error. Outside the main thread the block has no effect.
    """
    request, lock, active = StopRequest(), threading.Lock(), True
    reachable = threading.current_thread() is threading.main_thread()

    def handle(number: int) -> None:
        if request.signal is not None or request.error is not None:
            raise ImmediateStop(request.signal or number)
        request.signal = number
        request.came.set()

    def wait() -> None:
        # Runs outside the signal handler, which may have interrupted Ray while it holds a lock.
        request.came.wait()
        if request.signal is not None and _answer(on_first):
            interrupt()

    def interrupt() -> None:
        while True:  # repeated, because Ray's cleanup may hang too
            with lock:  # not after the block, where another handler would receive the signal
                if not (active and reachable):
                    return
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(AGAIN_S)

    request.interrupt = interrupt
    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    try:
        with handle_stop_signals(handle):
            try:
                yield request
            finally:
                with lock:
                    active = False
    except KeyboardInterrupt as stopped:
        if request.error is not None:
            raise request.error from stopped
        if request.signal is None or isinstance(stopped, ImmediateStop):
            raise
        # Ray replaces exceptions of signal handlers by a plain KeyboardInterrupt.
        raise ImmediateStop(request.signal) from stopped
    finally:
        request.came.set()
        waiter.join(timeout=1)


def _answer(on_first: Callable[[], bool]) -> bool:
    try:
        return on_first()
    except Exception as error:
        log.warning("the stop request could not be passed on (%r); a second signal stops at once", error)
        return False
