"""Problem details: one form for every error of the service, over HTTP and on the page."""

from collections.abc import Collection, Mapping
from typing import Any

from acestep.error_kinds import KINDS
from acestep.errors import MAX_SHOWN, AudioError, RestyleError, instruction, statement
from pipeline.storage.transient_errors import is_disk_full

SHORT_OF_SPACE = "short_of_space"
_FIELDS = {"language": "vocal_language"}  # manifest columns that requests name differently
MAX_MESSAGE = 1000  # characters


class ProblemError(RestyleError):
    """Why a request is not served.

    status: of HTTP; None is that of the kind. retry_after_s: when to come again, in whole seconds.
    """

    def __init__(
        self,
        kind: str,
        reason: str = "",
        remedy: str = "",
        field: str | None = None,
        value: object = None,
        *,
        allowed: str | Collection[Any] = "",
        status: int | None = None,
        retry_after_s: int | None = None,
    ):
        super().__init__(kind, reason, remedy or KINDS[kind].remedy, field, value, allowed=allowed)
        self.status, self.retry_after_s = status or KINDS[kind].status or 500, retry_after_s

    @property
    def message(self) -> str:
        """What is wrong, for people."""
        return shortened(statement(self), MAX_MESSAGE)

    def as_json(self) -> dict[str, Any]:
        """The body of the reply."""
        allowed = self.allowed if isinstance(self.allowed, str) else ", ".join(map(str, self.allowed))
        texts = {
            "message": self.message,
            "remedy": instruction(self),
            "field": self.field,
            "value": None if self.value is None else shortened(self.value),
            "allowed": allowed or None,
        }
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
    """The problem that an error of the lower layers is.

    Args:
        given: the values that the client sent.
        fields: names of request parameters.
    """
    if isinstance(error, ProblemError):
        return error
    kind = error.kind if isinstance(error, AudioError) else "invalid_value"
    field = _FIELDS.get(error.field or "", error.field)
    if error.where or field not in fields:
        remedy = error.remedy or ("" if error.allowed else "see /openapi.json")
        return ProblemError(kind, statement(error), remedy, allowed=error.allowed)
    remedy = error.remedy or ("" if error.allowed else f"see /openapi.json for what {field} may be")
    return ProblemError(
        kind,
        error.reason,
        remedy,
        field,
        given.get(str(field), error.value),
        allowed=error.allowed,
    )


def of_row(row: Mapping[str, Any], source: str) -> ProblemError:
    """The problem for an item that failed.

    Args:
        source: the service's path of the source, which is not shown to clients.
    """
    kind = row["error_kind"] if row["error_kind"] in KINDS else "internal_error"
    if kind == "storage_error":
        return storage_failure()
    if kind == SHORT_OF_SPACE:
        return short_of_space()
    said = str(row["error_message"]).replace(f"{source}: ", "").replace(source, "the source")
    return ProblemError(kind, said, retry_after_s=30 if KINDS[kind].status == 503 else None)


def storage_failure(error: OSError | None = None) -> ProblemError:
    """The problem for a storage failure; the error itself names internal paths."""
    if error is not None and is_disk_full(error):
        return short_of_space()
    return ProblemError("storage_error", "the service cannot read or write its folder", retry_after_s=30)


def short_of_space(reason: str = "the service's disk is full") -> ProblemError:
    """The problem for missing disk space."""
    return ProblemError(SHORT_OF_SPACE, reason, retry_after_s=60)
