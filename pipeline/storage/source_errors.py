"""Errors of reading a source, and the error kinds of result rows."""

from acestep.errors import AudioError, GenerationError, RestyleError
from pipeline.storage.transient_errors import is_transient


class SourceError(RestyleError):
    """A transient failure to read a source; a row of its ``kind`` is retried by the next launch."""


class SourceChangedError(SourceError):
    """The file differs from the one that was planned, is gone, or is not a regular file any more."""


class SourceTimeoutError(SourceError):
    """A read did not return, for example on a dead mount."""


class SourceUnavailableError(SourceError):
    """The filesystem returned an error for a file that was readable when it was planned."""


class ReadStoppedError(Exception):
    """A read was cancelled."""


def source_kind(error: Exception) -> str:
    """The error kind of an exception raised while reading or decoding a source."""
    if isinstance(error, AudioError | SourceError | GenerationError):
        return error.kind
    return "source_unavailable" if isinstance(error, OSError) and is_transient(error) else "unreadable_file"
