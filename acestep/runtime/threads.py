"""Results that do not depend on the number of threads: work is split into pieces of fixed shape, one thread each.

A matrix library partitions a product by the number of threads, and the shape of a part determines the summation
order. Inside ``serial_ops`` torch uses one thread; ``share`` distributes pieces, whose shapes depend on sizes
alone, over as many threads as torch was set to use.
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

COLUMNS = 512  # columns per piece of a matrix product: within 2% of the speed on all columns
MAX_THREADS = 256

Piece = TypeVar("Piece")
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# serial: number of threads for ``share``, set inside ``serial_ops``; helper: this thread works for a ``share``
_here = threading.local()


@contextmanager
def serial_ops() -> Iterator[None]:
    """Torch operations of this Python thread run on one thread; ``share`` uses all."""
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
    """Inside ``serial_ops``, run operations that are not split into pieces on all threads. No effect on a GPU."""
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
    return getattr(_here, "serial", None) is not None


def in_pieces(*tensors: Tensor) -> bool:
    """Whether to split work on tensors into pieces: on a CPU, without gradients and compilation."""
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
    """Process independent pieces on all threads.

    Args:
        work: consumes pieces from an iterator; called once per thread, so it can reuse scratch memory.
        pieces: independent of each other.
    """
    with serial_ops():
        listed = list(pieces)
        remaining = iter(listed)  # shared by the threads; next() is atomic under the GIL
        helpers = 0 if getattr(_here, "helper", False) else min(_here.serial, len(listed)) - 1
        if helpers < 1:
            work(remaining)
            return
        mode = torch.is_inference_mode_enabled()
        futures = [_pool().submit(_help, work, remaining, mode, _here.serial) for _ in range(helpers)]
        _here.helper = True  # a nested share gets no threads
        try:
            work(remaining)
        finally:
            _here.helper = False
            wait([future for future in futures if not future.cancel()])
        for future in futures:
            if not future.cancelled():
                future.result()


def columns(count: int, multiple: int = 1, size: int = COLUMNS) -> list[slice]:
    """Column slices of at most ``size`` columns, in multiples of ``multiple``."""
    step = max(size // multiple, 1) * multiple
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MAX_THREADS, "restyle-share")


@cache
def _keeper() -> ThreadPoolExecutor:
    """A thread for setting torch's number of threads for new threads."""
    return ThreadPoolExecutor(1, "restyle-threads")


def _forget_threads() -> None:
    """Reset the pools in a forked process, which does not inherit threads."""
    _pool.cache_clear()
    _keeper.cache_clear()


os.register_at_fork(after_in_child=_forget_threads)


def _set_threads_here(count: int, elsewhere: int) -> None:
    """Set torch's number of threads for this Python thread only; new threads start with ``elsewhere``.

    ``torch.set_num_threads`` sets both values; calling it from another thread resets the value for new threads.
    """
    torch.get_num_threads()  # the first call of a thread adopts the value for new threads
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
