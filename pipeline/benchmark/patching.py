"""Temporary replacement of methods of one object."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

Call = Callable[..., Any]


@contextmanager
def replaced(owner: Any, method: str, around: Callable[[Call], Call]) -> Iterator[None]:
    """Within the block, ``owner.method`` is ``around(owner.method)``; other instances are unchanged."""
    if method in vars(owner):
        raise ValueError(f"{type(owner).__name__}.{method} is replaced already")
    setattr(owner, method, around(getattr(owner, method)))
    try:
        yield
    finally:
        delattr(owner, method)


@contextmanager
def results_of(owner: Any, method: str) -> Iterator[list[Any]]:
    """The list of the return values of ``owner.method`` within the block."""
    results: list[Any] = []

    def around(call: Call) -> Call:
        @wraps(call)
        def remembering(*args: Any, **named: Any) -> Any:
            results.append(call(*args, **named))
            return results[-1]

        return remembering

    with replaced(owner, method, around):
        yield results
