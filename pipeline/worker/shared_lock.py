"""Work that threads of one process do beside each other, or one alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedLock:
    """Any number of threads work at once, or one with all others outside. Who wants to be alone goes first."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.inside = 0
        self.wanting = 0
        self.taken = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Work beside others; not to be entered twice by one thread."""
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
        """Wait until nobody else works, and work alone."""
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
