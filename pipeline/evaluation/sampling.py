"""Deterministic sampling by hash."""

import hashlib
from collections.abc import Iterable


def hash_sample(names: Iterable[str], count: int) -> list[str]:
    """Pick ``count`` names (or all) by hash; independent of their order and of the caller."""
    return sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).digest())[:count]
