"""What a result row says of an exception."""

import logging
from datetime import UTC, datetime
from typing import Any

import torch

from acestep.errors import AudioError, GenerationError, RestyleError, TooLongError
from pipeline.attempts import WorkerDiedError
from pipeline.source_errors import SourceError, SourceUnavailableError
from pipeline.spelling import MissingFileError
from pipeline.transient import is_transient

log = logging.getLogger(__name__)
TOO_LONG = "too_long"


def source_kind(error: Exception) -> str:
    """The kind of an error that a source causes."""
    if isinstance(error, SourceError | GenerationError):
        return error.kind
    if isinstance(error, TooLongError):
        return TOO_LONG
    if isinstance(error, OSError) and is_transient(error):
        return SourceUnavailableError.kind
    return "unreadable_audio" if isinstance(error, AudioError) else "unreadable_file"


def outcome(error: Exception) -> dict[str, Any]:
    """Status, kind and message of a failure."""
    status, kind, message = "failed", "internal_error", f"{type(error).__name__}: {error}"
    if isinstance(error, WorkerDiedError):
        status, kind, message = "rejected", "worker_died", str(error)
    elif isinstance(error, TooLongError):
        status, kind, message = "rejected", source_kind(error), str(error)
    elif isinstance(error, AudioError):
        kind, message = source_kind(error), str(error)
    elif isinstance(error, torch.OutOfMemoryError):
        remedy = "cut the track, or let fewer workers share a GPU (cluster.gpus_per_worker)"
        kind, message = "out_of_memory", f"{error}; {remedy}"
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
