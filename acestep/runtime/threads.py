"""Bits that do not depend on the number of threads: work is cut into pieces of fixed shape, each on one thread.

A matrix library divides a product among its threads, and the shape of a part decides which kernel sums it in which
order. Here torch itself never uses more than one thread: ``serial_ops`` sees to that, and ``share`` hands pieces,
whose shapes depend on sizes alone, to as many threads as torch was set to use.
"""

import os
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

_here = (
    threading.local()
)  # serial: how many threads this one may use, inside of ``serial_ops``; helper: of a share


@contextmanager
def serial_ops() -> Iterator[None]:
    """Torch operations of this Python thread run on one thread; ``share`` uses the others."""
    if is_serial():
        yield
        return
    threads = torch.get_num_threads()
    _set_threads_here(1, elsewhere=threads)
    _here.serial = threads
    try:
        yield
    finally:
        _here.serial = None
        torch.set_num_threads(threads)


@contextmanager
def parallel_ops(x: Tensor) -> Iterator[None]:
    """Inside of ``serial_ops``: operations that are not cut into pieces, on all threads; nothing on a GPU."""
    threads = getattr(_here, "serial", None)
    if threads is None or threads == 1 or x.device.type != "cpu" or torch.compiler.is_compiling():
        yield
        return
    torch.set_num_threads(threads)
    _here.serial = None
    try:
        yield
    finally:
        _set_threads_here(1, elsewhere=threads)
        _here.serial = threads


def is_serial() -> bool:
    """Whether this Python thread is inside of ``serial_ops``."""
    return getattr(_here, "serial", None) is not None


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
        helpers = 0 if getattr(_here, "helper", False) else min(_here.serial, len(listed)) - 1
        if helpers < 1:
            work(remaining)
            return
        mode = torch.is_inference_mode_enabled()
        futures = [_pool().submit(_help, work, remaining, mode, _here.serial) for _ in range(helpers)]
        _here.helper = True  # a share inside of this one has no threads left
        try:
            work(remaining)
        finally:
            _here.helper = False
            wait([future for future in futures if not future.cancel()])
        for future in futures:
            if not future.cancelled():
                future.result()


def columns(count: int, multiple: int = 1, size: int = COLUMNS) -> list[slice]:
    """The columns of each piece of a product: ``size`` or fewer, in whole multiples of ``multiple``."""
    step = max(size // multiple, 1) * multiple
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MAX_THREADS, "restyle-share")


@cache
def _keeper() -> ThreadPoolExecutor:
    """A thread whose own number of torch threads is nobody's concern."""
    return ThreadPoolExecutor(1, "restyle-threads")


def _forget_threads() -> None:
    """A forked process has none of its parent's threads."""
    _pool.cache_clear()
    _keeper.cache_clear()


os.register_at_fork(after_in_child=_forget_threads)


def _set_threads_here(count: int, elsewhere: int) -> None:
    """Set torch's number of threads for this Python thread, and leave it for Python threads that are new to torch.

    Torch's own function sets both; a second thread that calls it sets the latter back.
    """
    torch.get_num_threads()  # at its first operation a thread takes the number for new ones
    torch.set_num_threads(count)
    _keeper().submit(torch.set_num_threads, elsewhere).result()


def _help(
    work: Callable[[Iterator[Piece]], None], remaining: Iterator[Piece], inference: bool, threads: int
) -> None:
    if not is_serial():
        _set_threads_here(1, elsewhere=threads)
        _here.serial, _here.helper = 1, True
    with torch.inference_mode(inference), torch.no_grad():
        work(remaining)
