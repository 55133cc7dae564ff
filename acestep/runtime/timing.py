"""Timing of consecutive parts."""

import time
from collections.abc import Callable


class Stopwatch:
    """Measures consecutive parts; ``seconds`` maps names to durations.

    wait: called before reading the clock, for example to synchronize a device.
    """

    def __init__(self, wait: Callable[[], None] = lambda: None):
        self.wait = wait
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Add the time since the previous lap to ``name``."""
        self.wait()
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.last
        self.last = now
