"""Signals that end a job: Ctrl-C, SIGTERM of whoever owns the machine, SIGHUP of a terminal that was closed."""

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
# ``timeout`` sends its signal to the job and to the job's process group, and a closed terminal both the kernel's
# and the shell's: what follows so soon is the same stop request. Ctrl-C is pressed by hand and always counts.
REPEAT_S = 1.0


class ImmediateStop(KeyboardInterrupt):
    """The job was asked to stop without waiting for anything; ``signal`` says by which signal."""

    def __init__(self, number: int):
        super().__init__()
        self.signal = number


@contextmanager
def handle_stop_signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Within the block, ``handle`` is called with the number of each signal that ends a job.

    Signals reach the main thread only; elsewhere the block changes nothing. A SIGHUP that is ignored (``nohup``)
    stays so.
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
            if earlier is not None:  # one that was not set from Python cannot be set again from it
                signal.signal(number, earlier)


@contextmanager
def raise_on_stop_signals() -> Iterator[Callable[[KeyboardInterrupt], int]]:
    """Within the block, a signal that ends a job raises ImmediateStop.

    Yields the function that gives the exit status for a KeyboardInterrupt, 128 + the signal's number. Ray replaces
    an exception of a signal handler by a plain KeyboardInterrupt; its status is that of the last signal.
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
    """Within the block, this thread starts processes that never get SIGTERM and SIGHUP."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, FROM_OUTSIDE)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _leave_terminal() -> None:
    """Send what is still to be said nowhere, where the terminal is gone: writing to it would fail."""
    for output in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(output).st_mode) and not os.isatty(output):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, output)
                os.close(nowhere)
