"""The errors that a user can cause, as data; ``prose`` composes their text."""

from collections.abc import Collection
from numbers import Number
from typing import Any, Self

from acestep.error_kinds import KINDS
from acestep.redaction import redacted_values, without_secrets

MAX_SHOWN = 200  # characters of a value in a text
FETCH_AGAIN = "fetch it again"  # what to do about a checkpoint's files


class RestyleError(Exception):
    """Base of every error that a user's input, files or checkpoint can cause. Nothing in it tells a password.

    kind: a name in ``KINDS``.
    reason: what is wrong, as the predicate of field and value.
    remedy: what to do, as an imperative; "" where there is nothing.
    field, value: the parameter, key or column, and what it has.
    allowed: what it may be, as text or as the choices.
    where: the file, row or stage that the error is about.
    """

    default = "invalid_value"

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
        if kind not in KINDS:  # a text alone
            reason, _, remedy = kind.partition("; ")
            kind = self.default
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
        """An error of this class that says the same."""
        made = cls.__new__(cls)
        made.__dict__ |= error.__dict__ | ({"kind": kind} if kind else {})
        made.args = error.args
        return made

    def at(self, place: object) -> Self:
        """The same error, of what lies at ``place``."""
        made = self.of(self)
        made.where = without_secrets(f"{place}: {self.where}" if self.where else str(place))
        made.args = (prose(made),)
        return made


class RequestError(RestyleError):
    """A parameter is unknown, out of range or not supported."""


class AudioError(RestyleError):
    """An audio file cannot be read, or its content cannot be used."""

    default = "unreadable_audio"


class TooLongError(AudioError):
    """An audio file is longer than what is taken, as its header says or its decoding shows."""

    default = "too_long"


class GenerationError(RestyleError):
    """The model ran and what came out cannot be used."""


class CheckpointError(RestyleError):
    """A checkpoint is missing, incomplete or of another kind."""


def prose(error: RestyleError) -> str:
    """The text of an error: where, field and value, what is wrong; what to do."""
    return "; ".join(filter(None, (statement(error), instruction(error))))


def statement(error: RestyleError) -> str:
    """What is wrong."""
    value = "" if error.value is None else shown(error.value)
    said = " ".join(filter(None, (error.field, value, error.reason)))
    return without_secrets(f"{error.where}: {said}" if error.where else said)


def instruction(error: RestyleError) -> str:
    """What to do about it; "" where the error does not say."""
    return "; ".join(filter(None, (_permitted(error), error.remedy)))


def _permitted(error: RestyleError) -> str:
    """The values that are allowed; "" where the error does not say."""
    if isinstance(error.allowed, str):
        return error.allowed and f"allowed: {error.allowed}"
    return f"use one of {', '.join(map(str, error.allowed))}"


def shown(value: Any) -> str:
    """A value in a text, cut where it is long."""
    plain = value if isinstance(value, str | list | dict | Number) else str(value)
    text = str(plain) if isinstance(plain, Number) else repr(plain)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
