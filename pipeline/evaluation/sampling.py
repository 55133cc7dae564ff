"""Drawing lots that fall the same way every time."""

import hashlib
from collections.abc import Iterable


def hash_sample(names: Iterable[str], count: int) -> list[str]:
    """``count`` of many names (or all), by what they are and by nothing else: whoever asks, in whatever order."""
    return sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).digest())[:count]
