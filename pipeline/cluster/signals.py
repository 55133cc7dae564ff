"""Signals that stop a job: SIGINT (Ctrl-C), SIGTERM, and SIGHUP of a closed terminal."""

import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FROM_OUTSIDE = {signal.SIGTERM, signal.SIGHUP}
# ``timeout`` signals both the job and its process group, and a closed terminal sends SIGHUP twice (kernel and
# shell). Repeats within this time are one request; Ctrl-C always counts.
REPEAT_S = 1.0


class ImmediateStop(KeyboardInterrupt):
    """The job must stop without waiting.

    signal: number of the signal that requested it.
    """

    def __init__(self, number: int):
        super().__init__()
        self.signal = number


@contextmanager
def handle_stop_signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Within the block, ``handle`` receives the number of each stop signal.

    Outside the main thread the block has no effect. An ignored SIGHUP (``nohup``) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last = -REPEAT_S

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if number == signal.SIGHUP:
            _leave_terminal()
        if number == signal.SIGINT or time.monotonic() - last >= REPEAT_S:
            last = time.monotonic()
            handle(number)

    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    numbers = [number for number in ENDING if not (ignored and number == signal.SIGHUP)]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            if earlier is not None:  # handlers not installed from Python cannot be restored
                signal.signal(number, earlier)


@contextmanager
def raise_on_stop_signals() -> Iterator[Callable[[KeyboardInterrupt], int]]:
    """Within the block, a stop signal raises ImmediateStop.

    Yields a function that maps a KeyboardInterrupt to the exit status 128 + signal number. Ray replaces exceptions
    of signal handlers by a plain KeyboardInterrupt, for which the last signal counts.
    """
    last: int = signal.SIGINT

    def stop(number: int) -> None:
        nonlocal last
        last = number
        raise ImmediateStop(number)

    def status_of(stopped: KeyboardInterrupt) -> int:
        return 128 + (stopped.signal if isinstance(stopped, ImmediateStop) else last)

    with handle_stop_signals(stop):
        yield status_of


@contextmanager
def block_stop_signals() -> Iterator[None]:
    """Within the block, processes started by this thread inherit a mask that blocks SIGTERM and SIGHUP."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, FROM_OUTSIDE)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _leave_terminal() -> None:
    """Redirect output of a vanished terminal to /dev/null, because writing to it would fail."""
    for output in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(output).st_mode) and not os.isatty(output):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, output)
                os.close(nowhere)
