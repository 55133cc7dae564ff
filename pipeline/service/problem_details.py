"""Problem details: one form for every error of the service, over HTTP and on the page."""

import errno
import os
import re
from collections.abc import Collection, Mapping
from typing import Any

from acestep.errors import AudioError, RestyleError
from acestep.redaction import redacted_values, without_secrets
from pipeline.storage.source_errors import TOO_LONG, source_kind
from pipeline.storage.transient_errors import TRANSIENT_KINDS

UNAVAILABLE, SHORT_OF_SPACE = "unavailable", "short_of_space"
# HTTP status of a failed item's kind; kinds not listed are internal errors.
STATUS_OF_KIND = dict.fromkeys(TRANSIENT_KINDS, 503) | {
    "unreadable_audio": 415,
    "unreadable_file": 422,
    "missing_file": 404,
    "bad_request": 422,
    TOO_LONG: 413,
    "cancelled": 409,
    "source_changed": 409,
    "silent_output": 422,
    "not_finite": 422,
    "energy_collapse": 422,
    "parent_failed": 422,
    UNAVAILABLE: 503,
    "worker_died": 503,
}
_FIELDS = {"language": "vocal_language"}  # manifest columns that requests name differently
MAX_SHOWN, MAX_SAID = 200, 1000  # characters of a reported value, and of a message


class ProblemError(RestyleError):
    """Why a request is not served.

    status: of HTTP. kind: one word for programs. field, value: what of the request is wrong, where one thing is.
    message: for people; remedy: what to do about it. retry_after_s: when to come again, in whole seconds.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        remedy: str = "",
        field: str | None = None,
        value: object = None,
        retry_after_s: int | None = None,
    ):
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.status, self.kind, self.remedy = status, kind, remedy
        self.message = shortened(without_secrets(message), MAX_SAID)
        self.field, self.value, self.retry_after_s = field, value, retry_after_s

    def as_json(self) -> dict[str, Any]:
        """The body of the reply."""
        said = None if self.value is None else shortened(redacted_values(self.value))
        texts = {"message": self.message, "remedy": self.remedy, "field": self.field, "value": said}
        whole = {name: text and text.encode(errors="backslashreplace").decode() for name, text in texts.items()}
        return {"error": {"status": self.status, "kind": self.kind} | whole}


def retry_after(problem: ProblemError) -> dict[str, str]:
    """The Retry-After header, if the problem has one."""
    return {} if problem.retry_after_s is None else {"Retry-After": str(problem.retry_after_s)}


def shortened(value: object, max_characters: int = MAX_SHOWN) -> str:
    """A value as text, truncated if long."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= max_characters else f"{text[:max_characters]}... ({len(text)} characters)"


def of_error(error: RestyleError, given: Mapping[str, Any], fields: Collection[str]) -> ProblemError:
    """The problem for an error of the lower layers, whose message starts with the field and ends with the remedy.

    Args:
        given: the values that the client sent.
        fields: names of request parameters.
    """
    if isinstance(error, ProblemError):
        return error
    message, remedy = said_and_remedy(str(error))
    named = re.match(r"\w+", message)
    field = _FIELDS.get(named.group(), named.group()) if named else None
    field = field if field in fields else None
    kind = source_kind(error) if isinstance(error, AudioError) else "invalid_value"
    status = STATUS_OF_KIND.get(kind, 422)
    remedy = remedy or (f"see /openapi.json for what {field} may be" if field else "see /openapi.json")
    return ProblemError(status, kind, message, remedy, field, given.get(field) if field else None)


def of_row(row: Mapping[str, Any], source: str) -> ProblemError:
    """The problem for an item that failed.

    Args:
        source: the service's path of the source, which is not shown to clients.
    """
    kind = row["error_kind"] or "internal_error"
    said = str(row["error_message"]).replace(f"{source}: ", "").replace(source, "the source")
    message, remedy = said_and_remedy(said)
    if kind == "storage_error":
        return not_stored(said)
    status = STATUS_OF_KIND.get(kind, 500)
    return ProblemError(status, kind, message, remedy, retry_after_s=30 if status == 503 else None)


def not_stored(message: str) -> ProblemError:
    """The problem for a storage failure; the original message names internal paths."""
    if any(os.strerror(number) in message for number in (errno.ENOSPC, errno.EDQUOT)):
        return short_of_space("the service's disk is full")
    said = "the service cannot read or write its folder"
    return ProblemError(503, "storage_error", said, "come again later", retry_after_s=30)


def gone() -> ProblemError:
    """The problem for a cover that was removed."""
    return ProblemError(
        410, "gone", "the cover was removed to make room", "send the same request; it is made again"
    )


def short_of_space(reason: str) -> ProblemError:
    """The problem for missing disk space."""
    remedy = "come again later; whoever runs the service makes room, or sets store.max_gb"
    return ProblemError(507, SHORT_OF_SPACE, reason, remedy, retry_after_s=60)


def said_and_remedy(text: str) -> tuple[str, str]:
    """Message and remedy of an error's text, separated by the first "; " outside brackets."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth <= 0 and text.startswith("; ", place):
            return text[:place], text[place + 2 :]
    return text, ""
