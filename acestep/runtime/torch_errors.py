"""Classify errors of torch.

Torch, oneDNN and the C++ library raise plain RuntimeErrors, which only their text distinguishes.
"""

import errno

import torch

# "can't start new thread" is raised by Python if there is no memory for a thread's stack.
_NO_MEMORY = (
    "can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "bad_alloc",
    "can't start new thread", "could not create a memory",
)  # fmt: skip


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error or one of its causes is an out-of-memory error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(cause, OSError) and cause.errno == errno.ENOMEM:
            return True
        if type(cause) is RuntimeError and any(words in str(cause).lower() for words in _NO_MEMORY):
            return True
        cause = cause.__cause__
    return False


def breaks_device(error: BaseException) -> bool:
    """Whether the device is unusable after the error."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and "CUDA err" in str(error)
    )
