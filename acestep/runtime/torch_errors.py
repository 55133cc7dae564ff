"""What an error of torch means.

Torch, oneDNN and the C++ library raise a plain RuntimeError whose text alone tells the reason.
"""

import errno

import torch

# The last but one is Python's, where a thread's stack finds no place.
_NO_MEMORY = (
    "can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "bad_alloc",
    "can't start new thread", "could not create a memory",
)  # fmt: skip


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that memory ran out."""
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
    """Whether every later call on the device fails as well."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and "CUDA err" in str(error)
    )
