"""Errors that a user can cause, as data; ``prose`` composes their text."""

from collections.abc import Collection
from numbers import Number
from pathlib import PurePath
from typing import Any, Self

from acestep.error_kinds import KINDS
from acestep.redaction import redacted_values, without_secrets

MAX_SHOWN = 200  # characters of a value in a text
FETCH_AGAIN = "fetch it again"  # remedy for files of a checkpoint


class RestyleError(Exception):
    """Base of all errors caused by a user's input, files or checkpoint. Passwords are masked.

    kind: a name in ``KINDS``.
    reason: predicate of the sentence "field value reason".
    remedy: instruction, or "".
    field, value: parameter, key or column, and its value.
    allowed: allowed values, as text or as a list of choices.
    where: file, row or stage of the error.
    """

    def __init__(
        self,
        kind: str,
        reason: str = "",
        remedy: str = "",
        field: str | None = None,
        value: Any = None,
        *,
        allowed: str | Collection[Any] = "",
        where: object = "",
    ):
        self.kind, self.field, self.value = kind, field, redacted_values(value)
        self.reason = without_secrets(str(reason) or KINDS[kind].reason)
        self.remedy = without_secrets(str(remedy))
        self.allowed = (
            tuple(redacted_values(list(allowed))) if not isinstance(allowed, str) else without_secrets(allowed)
        )
        self.where = without_secrets(str(where))
        super().__init__(prose(self))

    def __str__(self) -> str:
        return prose(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).__new__, (type(self), *self.args), self.__dict__

    @classmethod
    def of(cls, error: "RestyleError", kind: str = "") -> Self:
        """Copy an error to this class, optionally with another kind."""
        made = cls.__new__(cls)
        made.__dict__ |= error.__dict__ | ({"kind": kind} if kind else {})
        made.args = error.args
        return made

    def at(self, place: object) -> Self:
        """A copy of this error with ``place`` prepended to its location."""
        made = self.of(self)
        made.where = without_secrets(f"{place}: {self.where}" if self.where else str(place))
        made.args = (prose(made),)
        return made


class RequestError(RestyleError):
    """A parameter is unknown, out of range or not supported."""


class AudioError(RestyleError):
    """An audio file cannot be read, or its content cannot be used."""


class TooLongError(AudioError):
    """An audio file exceeds the maximal duration, by its header or its decoded samples."""


class GenerationError(RestyleError):
    """The model's output cannot be used."""


class CheckpointError(RestyleError):
    """A checkpoint is missing, incomplete or of another kind."""


def prose(error: RestyleError) -> str:
    """The text of an error: location, field and value, reason; remedy."""
    return "; ".join(filter(None, (statement(error), instruction(error))))


def statement(error: RestyleError) -> str:
    """The text of an error without its remedy."""
    value = "" if error.value is None else shown(error.value)
    said = " ".join(filter(None, (error.field, value, error.reason)))
    return without_secrets(f"{error.where}: {said}" if error.where else said)


def instruction(error: RestyleError) -> str:
    """Allowed values and remedy of an error, or ""."""
    return "; ".join(filter(None, (_permitted(error), error.remedy)))


def _permitted(error: RestyleError) -> str:
    if isinstance(error.allowed, str):
        return error.allowed and f"allowed: {error.allowed}"
    return f"use one of {', '.join(map(str, error.allowed))}"


def shown(value: Any) -> str:
    """Format a value for a message, truncated."""
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    text = str(value) if isinstance(value, Number) else repr(str(value) if isinstance(value, PurePath) else value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
