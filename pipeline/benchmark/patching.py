"""Looking at methods of one object from outside, without touching its code."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

Call = Callable[..., Any]


@contextmanager
def replaced(owner: Any, method: str, around: Callable[[Call], Call]) -> Iterator[None]:
    """Within the block, ``owner.method`` is what ``around`` makes of it; others of its class keep theirs."""
    if method in vars(owner):
        raise ValueError(f"{type(owner).__name__}.{method} is replaced already")
    setattr(owner, method, around(getattr(owner, method)))
    try:
        yield
    finally:
        delattr(owner, method)


@contextmanager
def results_of(owner: Any, method: str) -> Iterator[list[Any]]:
    """The list of what ``owner.method`` returns within the block, call by call."""
    results: list[Any] = []

    def around(call: Call) -> Call:
        @wraps(call)
        def remembering(*args: Any, **named: Any) -> Any:
            results.append(call(*args, **named))
            return results[-1]

        return remembering

    with replaced(owner, method, around):
        yield results
