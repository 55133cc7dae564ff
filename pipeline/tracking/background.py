"""A background thread for calls that may hang."""

import threading
from collections.abc import Callable


class BackgroundThread:
    """A daemon thread that runs one task at a time.

    At most one task waits; a newer one replaces it. Tasks must not raise.
    """

    def __init__(self, name: str):
        self.name = name
        self.changed = threading.Condition()
        self.waiting: Callable[[], None] | None = None
        self.closed = False
        self.thread: threading.Thread | None = None

    def offer(self, task: Callable[[], None]) -> None:
        """Run a task after the current one; returns at once."""
        with self.changed:
            self.waiting = task
            self.changed.notify()
            if self.thread is None:
                self.thread = threading.Thread(target=self._run, name=self.name, daemon=True)
                self.thread.start()

    def close(self, patience_s: float, last: Callable[[], None] | None = None) -> bool:
        """Accept no more tasks, and wait for the current one and then for ``last``.

        Returns:
            Whether both finished within ``patience_s`` seconds; if not, the thread is abandoned.
        """
        with self.changed:
            self.waiting, self.closed = last, True
            self.changed.notify()
        if self.thread is None:
            if last is not None:
                last()
            return True
        self.thread.join(patience_s)
        return not self.thread.is_alive()

    def _run(self) -> None:
        while True:
            with self.changed:
                while self.waiting is None and not self.closed:
                    self.changed.wait()
                task, self.waiting = self.waiting, None
            if task is None:
                return
            task()
