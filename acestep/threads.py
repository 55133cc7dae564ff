"""Bits that do not depend on the number of threads: work is cut into pieces of fixed shape, each on one thread.

A matrix library divides a product among its threads, and the shape of a part decides which kernel sums it in which
order. Here torch itself never uses more than one thread: ``serial_ops`` sees to that, and ``share`` hands pieces,
whose shapes depend on sizes alone, to as many threads as torch was set to use.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

COLUMNS = 512  # of a piece of a matrix product: one thread is as fast as on all columns, to one or two percent
MAX_THREADS = 256

Piece = TypeVar("Piece")
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_lock = threading.Lock()
_held = 0  # threads inside of ``serial_ops``
_threads = 1  # what torch was set to use before the first of them entered
_here = threading.local()


@contextmanager
def serial_ops() -> Iterator[None]:
    """Torch operations of this Python thread run on one thread; ``share`` uses the others."""
    global _held, _threads
    if is_serial():
        yield
        return
    with _lock:
        if _held == 0:
            _threads = torch.get_num_threads()
        _held += 1
    _here.serial = True
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _here.serial = False
        with _lock:
            _held -= 1
        torch.set_num_threads(_threads)


def is_serial() -> bool:
    """Whether this Python thread is inside of ``serial_ops``."""
    return getattr(_here, "serial", False)


def in_pieces(*tensors: Tensor) -> bool:
    """Whether work on tensors is to be cut into pieces: on a CPU, where nothing is differentiated or compiled."""
    if torch.compiler.is_compiling() or tensors[0].device.type != "cpu":
        return False
    return not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in tensors)


def inference(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorator: ``torch.inference_mode`` and ``serial_ops``."""

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with torch.inference_mode(), serial_ops():
            return function(*args, **kwargs)

    return run


def share(work: Callable[[Iterator[Piece]], None], pieces: Iterable[Piece]) -> None:
    """Work through pieces on all threads.

    Args:
        work: takes pieces from an iterator until there are none. It runs once on each thread, so it can allocate
            scratch memory once for all the pieces it takes.
        pieces: independent of each other.
    """
    with serial_ops():
        listed = list(pieces)
        remaining = iter(listed)  # shared by the threads: its next item is taken under the GIL
        mode, helpers = torch.is_inference_mode_enabled(), 0 if _is_helper() else min(_threads, len(listed)) - 1
        futures = [_pool().submit(_help, work, remaining, mode) for _ in range(helpers)]
        try:
            work(remaining)
        finally:
            wait(futures)
        for future in futures:
            future.result()


def columns(count: int, multiple: int = 1, size: int = COLUMNS) -> list[slice]:
    """The columns of each piece of a product: ``size`` or fewer, in whole multiples of ``multiple``."""
    step = max(size // multiple, 1) * multiple
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MAX_THREADS, "restyle-share", initializer=_become_helper)


def _become_helper() -> None:
    _here.serial = _here.helper = True
    torch.set_num_threads(1)


def _is_helper() -> bool:
    return getattr(_here, "helper", False)


def _help(work: Callable[[Iterator[Piece]], None], remaining: Iterator[Piece], inference_mode: bool) -> None:
    with torch.inference_mode(inference_mode), torch.no_grad():
        work(remaining)
