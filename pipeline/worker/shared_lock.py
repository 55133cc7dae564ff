"""A shared/exclusive lock for threads."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedLock:
    """A lock held by any number of threads ``together``, or by one thread ``alone``, which has priority."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.inside = 0
        self.wanting = 0
        self.taken = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Hold the lock shared; not reentrant."""
        with self.changed:
            self.changed.wait_for(lambda: not self.taken and not self.wanting)
            self.inside += 1
        try:
            yield
        finally:
            with self.changed:
                self.inside -= 1
                self.changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock exclusively."""
        with self.changed:
            self.wanting += 1
            try:
                self.changed.wait_for(lambda: not self.taken and not self.inside)
            finally:
                self.wanting -= 1
            self.taken = True
        try:
            yield
        finally:
            with self.changed:
                self.taken = False
                self.changed.notify_all()
