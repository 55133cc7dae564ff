"""Errors of reading a source, and the error kinds of result rows."""

from acestep.errors import AudioError, GenerationError, RestyleError, TooLongError
from pipeline.storage.transient_errors import is_transient

TOO_LONG = "too_long"


class SourceError(RestyleError):
    """A transient failure to read a source; a row of this ``kind`` is retried by the next launch."""

    kind: str


class SourceChangedError(SourceError):
    """The file differs from the one that was planned, is gone, or is not a regular file any more."""

    kind = "source_changed"


class SourceTimeoutError(SourceError):
    """A read did not return, for example on a dead mount."""

    kind = "source_timeout"


class SourceUnavailableError(SourceError):
    """The filesystem returned an error for a file that was readable when it was planned."""

    kind = "source_unavailable"


class ReadStoppedError(Exception):
    """A read was cancelled."""


def source_kind(error: Exception) -> str:
    """The error kind of an exception raised while reading or decoding a source."""
    if isinstance(error, SourceError | GenerationError):
        return error.kind
    if isinstance(error, TooLongError):
        return TOO_LONG
    if isinstance(error, OSError) and is_transient(error):
        return SourceUnavailableError.kind
    return "unreadable_audio" if isinstance(error, AudioError) else "unreadable_file"
