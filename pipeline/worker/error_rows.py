"""Maps an exception to the status, kind and message of a result row."""

import ctypes
import gc
import logging
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import torch

from acestep.errors import AudioError, GenerationError, RestyleError, TooLongError
from acestep.runtime.torch_errors import ran_out_of_memory
from pipeline.storage.similar_files import MissingFileError
from pipeline.storage.source_errors import SourceError
from pipeline.worker.attempts import WorkerDiedError, WorkerMemoryError

log = logging.getLogger(__name__)
OUT_OF_MEMORY = "out_of_memory"
MORE_MEMORY = (
    "cut the track, or give workers more memory: fewer of them (cluster.workers), or fewer on a GPU "
    "(cluster.gpus_per_worker)"
)


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
        kind, message = error.kind, str(error)
    elif isinstance(error, WorkerDiedError | TooLongError):
        status, kind, message = "rejected", error.kind, str(error)
    elif ran_out_of_memory(error):
        release_memory()
        kind, message = OUT_OF_MEMORY, f"{error or type(error).__name__}; {MORE_MEMORY}"
    elif isinstance(error, AudioError | GenerationError | SourceError | MissingFileError):
        kind, message = error.kind, str(error)
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
