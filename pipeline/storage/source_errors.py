"""Why a source could not be read although nothing is wrong with the row that names it."""

from acestep.errors import AudioError, GenerationError, RestyleError, TooLongError
from pipeline.storage.transient_errors import is_transient

TOO_LONG = "too_long"


class SourceError(RestyleError):
    """A source could not be read now. Another launch may read it, so a row of this ``kind`` is not final."""

    kind: str


class SourceChangedError(SourceError):
    """The file is not the one that was planned: its content differs, it is gone, or it is no file any more."""

    kind = "source_changed"


class SourceTimeoutError(SourceError):
    """A read did not return, as on a dead mount."""

    kind = "source_timeout"


class SourceUnavailableError(SourceError):
    """The filesystem returned an error for a file that was read when it was planned."""

    kind = "source_unavailable"


class ReadStoppedError(Exception):
    """A read was abandoned because nobody waits for its result any more."""


def source_kind(error: Exception) -> str:
    """The kind of an error that a source causes."""
    if isinstance(error, SourceError | GenerationError):
        return error.kind
    if isinstance(error, TooLongError):
        return TOO_LONG
    if isinstance(error, OSError) and is_transient(error):
        return SourceUnavailableError.kind
    return "unreadable_audio" if isinstance(error, AudioError) else "unreadable_file"
