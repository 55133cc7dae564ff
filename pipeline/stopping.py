"""Stopping a job cleanly: what is under way is finished and written, nothing new is begun."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from acestep.errors import RestyleError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
MOST_WAITING = 10_000


class StoppedNow(KeyboardInterrupt):
    """The second signal; ``signal`` says which."""

    def __init__(self, number: int):
        super().__init__()
        self.signal = number


class StoppedError(RestyleError):
    """The job was asked to stop, and did; ``signal`` says by which signal."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.signal = number


class _Flag:
    """A Ray actor on the driver's node. Lowered once; everyone who waits learns of it."""

    def __init__(self) -> None:
        self.lowered = asyncio.Event()

    async def wait(self) -> None:
        await self.lowered.wait()

    async def lower(self) -> None:
        self.lowered.set()


class StopFlag:
    """Tells workers anywhere in the cluster to begin nothing new; costs them no message per track."""

    def __init__(self, actor: Any = None):
        self.actor = actor or _start_flag()
        self.waiting: ray.ObjectRef | None = None

    def __reduce__(self) -> tuple[type["StopFlag"], tuple[Any]]:
        return StopFlag, (self.actor,)

    def lower(self) -> None:
        """Ask everyone to stop."""
        self.actor.lower.remote()

    @property
    def lowered(self) -> bool:
        """Whether that was asked; False too where the flag's node is lost."""
        if self.waiting is None:
            self.waiting = self.actor.wait.remote()
        if not ray.wait([self.waiting], timeout=0)[0]:
            return False
        try:
            ray.get(self.waiting)
        except RayError:
            return False
        return True


def _start_flag() -> Any:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    flag = ray.remote(_Flag).options(num_cpus=0, max_concurrency=MOST_WAITING, scheduling_strategy=here)
    return flag.remote()


class StopRequest:
    """What the driver knows of a wish to stop; ``signal`` is the signal that came, or None."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.came = threading.Event()


@contextmanager
def stop_signals(on_first: Callable[[], None]) -> Iterator[StopRequest]:
    """Within the block, the first Ctrl-C or SIGTERM calls ``on_first``; the second raises StoppedNow.

    Signals reach the main thread only; elsewhere the block changes nothing.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.signal is not None:
            raise StoppedNow(number)
        request.signal = number
        request.came.set()

    def wait() -> None:
        # Not in the handler: it may have interrupted Ray while that holds a lock.
        request.came.wait()
        if request.signal is not None:
            on_first()

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that was not set from Python cannot be set again from it
                signal.signal(number, handler)
        request.came.set()
        waiter.join(timeout=1)
