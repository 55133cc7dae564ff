"""Read and check values of a config.json."""

from collections.abc import Mapping
from typing import Any, TypeGuard

SLIDING, FULL = "sliding_attention", "full_attention"
MAX_NUMBER = 1e12  # also excludes infinities and huge integers
MAX_LAYERS = 1000  # per stack; building a layer takes about a millisecond even without its weights


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a JSON value is a finite number of plausible magnitude."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER


def is_size(value: object) -> TypeGuard[int]:
    """Whether a JSON value is an integer above 0."""
    return isinstance(value, int) and is_number(value) and value > 0


def value_of(raw: Mapping[str, Any], key: str, default: float | None) -> Any:
    """A value, or the default if it is missing or null."""
    if raw.get(key) is not None:
        return raw[key]
    return raw[key] if default is None else default


def layer_count(raw: Mapping[str, Any], key: str) -> int:
    """Read a number of layers.

    Raises:
        KeyError: the key is missing.
        ValueError: the value is not an integer from 1 to ``MAX_LAYERS``.
    """
    count = size_of(raw, key)
    if count > MAX_LAYERS:
        raise ValueError(f"{key} is {count}, expected at most {MAX_LAYERS}")
    return count


def size_of(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = value_of(raw, key, default)
    if not is_size(value):
        raise ValueError(f"{key} is {value!r:.200}, expected a whole number above 0")
    return value


def positive_number(raw: Mapping[str, Any], key: str, default: float) -> float:
    value = value_of(raw, key, default)
    if not is_number(value) or value <= 0:
        raise ValueError(f"{key} is {value!r:.200}, expected a number above 0")
    return float(value)


def sizes_list(raw: Mapping[str, Any], key: str) -> tuple[int, ...]:
    values = raw[key]
    if not isinstance(values, list) or not values or not all(map(is_size, values)):
        raise ValueError(f"{key} is {values!r:.200}, expected a list of whole numbers above 0")
    if len(values) > MAX_LAYERS:
        raise ValueError(f"{key} has {len(values)} entries, expected at most {MAX_LAYERS}")
    return tuple(values)


def layer_kinds(raw: dict[str, Any]) -> list[str] | None:
    """The attention kinds of ``layer_types``; None if the key is missing.

    Raises:
        ValueError: the value is invalid.
    """
    kinds = raw.get("layer_types")
    if not kinds and (kinds is None or kinds == []):
        return None
    if not isinstance(kinds, list) or any(kind not in (SLIDING, FULL) for kind in kinds):
        raise ValueError(f"layer_types is {kinds!r:.200}, expected a list of {SLIDING!r} and {FULL!r}")
    return kinds
