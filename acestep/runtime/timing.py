"""Where time goes, by part."""

import time
from collections.abc import Callable


class Stopwatch:
    """Seconds of consecutive parts; ``seconds`` maps each name to what was spent since the lap before.

    wait: called before the clock is read, such as for a device to finish.
    """

    def __init__(self, wait: Callable[[], None] = lambda: None):
        self.wait = wait
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        """What was done since the last lap was ``name``."""
        self.wait()
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.last
        self.last = now
