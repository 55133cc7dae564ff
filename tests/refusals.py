"""Errors that a test expects, by what they carry."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from acestep.errors import RestyleError

Error = TypeVar("Error", bound=RestyleError)


@contextmanager
def raises(
    cls: type[Error], kind: str, field: str | None = None, value: Any = None, remedy: str = ""
) -> Iterator[pytest.ExceptionInfo[Error]]:
    """The block raises an error of this kind, on this field where one is given; its remedy holds ``remedy``."""
    with pytest.raises(cls) as raised:
        yield raised
    error = raised.value
    assert error.kind == kind, error
    assert field is None or (error.field, error.value) == (field, value), error
    assert remedy in error.remedy, error
