"""Maps an exception to the status, kind and message of a result row."""

import ctypes
import errno
import gc
import logging
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import torch

from acestep.errors import AudioError, GenerationError, RestyleError, TooLongError
from pipeline.storage.source_errors import SourceError, source_kind
from pipeline.storage.spelling import MissingFileError
from pipeline.worker.attempts import WorkerDiedError, WorkerMemoryError

log = logging.getLogger(__name__)
OUT_OF_MEMORY = "out_of_memory"
MORE_MEMORY = (
    "cut the track, or give workers more memory: fewer of them (cluster.workers), or fewer on a GPU "
    "(cluster.gpus_per_worker)"
)
# Texts of RuntimeError by torch, oneDNN and the C++ library, and by Python when a thread cannot start.
NO_MEMORY = (
    "can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "bad_alloc",
    "can't start new thread", "could not create a memory",
)  # fmt: skip


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error or one of its causes means that memory ran out."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(cause, OSError) and cause.errno == errno.ENOMEM:
            return True
        if type(cause) is RuntimeError and any(words in str(cause).lower() for words in NO_MEMORY):
            return True
        cause = cause.__cause__
    return False


def release_memory() -> None:
    """Return unused memory of this process to the system."""
    gc.collect()
    with suppress(AttributeError):  # the C library of Linux has it
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def outcome(error: Exception) -> dict[str, Any]:
    """Status, kind and message of a failure, as result columns."""
    status, kind, message = "failed", "internal_error", f"{type(error).__name__}: {error}"
    if isinstance(error, WorkerMemoryError):
        kind, message = OUT_OF_MEMORY, str(error)
    elif isinstance(error, WorkerDiedError):
        status, kind, message = "rejected", "worker_died", str(error)
    elif isinstance(error, TooLongError):
        status, kind, message = "rejected", source_kind(error), str(error)
    elif ran_out_of_memory(error):
        release_memory()
        kind, message = OUT_OF_MEMORY, f"{error or type(error).__name__}; {MORE_MEMORY}"
    elif isinstance(error, AudioError):
        kind, message = source_kind(error), str(error)
    elif isinstance(error, GenerationError | SourceError):
        kind, message = error.kind, str(error)
    elif isinstance(error, MissingFileError):
        kind, message = "missing_file", str(error)
    elif isinstance(error, RestyleError):
        kind, message = "bad_request", str(error)
    elif isinstance(error, OSError):
        kind = "storage_error"
    if kind == "internal_error":
        log.exception("unexpected error")
    return {
        "status": status,
        "error_kind": kind,
        "error_message": message,
        "finished_at": datetime.now(UTC),
    }
