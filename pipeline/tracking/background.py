"""One thing at a time in a thread of its own, for what may hang and must hold nobody up."""

import threading
from collections.abc import Callable


class BackgroundThread:
    """A daemon thread that runs errands one after the other.

    Only the newest errand waits: what still waits when another is offered is dropped. An errand must not raise.
    """

    def __init__(self, name: str):
        self.name = name
        self.changed = threading.Condition()
        self.waiting: Callable[[], None] | None = None
        self.closed = False
        self.thread: threading.Thread | None = None

    def offer(self, errand: Callable[[], None]) -> None:
        """Have an errand run as soon as the one in hand is done; returns at once."""
        with self.changed:
            self.waiting = errand
            self.changed.notify()
            if self.thread is None:
                self.thread = threading.Thread(target=self._run, name=self.name, daemon=True)
                self.thread.start()

    def close(self, patience_s: float, last: Callable[[], None] | None = None) -> bool:
        """Take nothing more, and wait for the errand in hand and then for ``last``.

        Returns:
            Whether they were done within ``patience_s`` seconds; if not, the thread is left to itself.
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
                errand, self.waiting = self.waiting, None
            if errand is None:
                return
            errand()
