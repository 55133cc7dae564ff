"""Convert values from manifests, HTTP, the page and Python by one set of rules.

None, NaN and blank text are empty. Numbers are accepted as text and numerals as numbers; lists, mappings, booleans
and bytes are not.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from numbers import Integral, Number, Real
from typing import Any, get_args

import numpy as np

from acestep.errors import RequestError

SHEET_ERRORS = frozenset(
    {"#NAME?", "#REF!", "#VALUE!", "#DIV/0!", "#NUM!", "#NULL!", "#SPILL!", "#CALC!", "#FIELD!", "#ERROR!"}
)
MAX_LEVELS = 100
_BOOLEANS = dict.fromkeys(("true", "1", "1.0", "yes"), True) | dict.fromkeys(("false", "0", "0.0", "no"), False)
_LINE_END = re.compile(r"(?:_x000D_)?\r?\n|\r|_x000D_", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")


def from_json(
    text: str | bytes,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
    constant: Callable[[str], Any] | None = None,
) -> Any:
    """Parse JSON with a limit on the nesting depth, beyond which copying or printing would overflow the stack.

    Args:
        pairs, constant: see ``object_pairs_hook`` and ``parse_constant`` of ``json.loads``.

    Raises:
        ValueError: the text is not JSON, or is nested deeper than ``MAX_LEVELS``.
    """
    nested = f"its brackets are nested more than {MAX_LEVELS} deep"
    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except RecursionError:
        raise ValueError(nested) from None
    level = [value]
    for _ in range(MAX_LEVELS + 1):
        outer = [one for one in level if isinstance(one, dict | list)]
        level = [inner for one in outer for inner in (one.values() if isinstance(one, dict) else one)]
    if level:
        raise ValueError(nested)
    return value


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def is_empty(value: Any) -> bool:
    """Whether a value is None, NaN, NaT or blank text."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, Number | datetime) and bool(value != value))


def as_text(name: str, value: Any) -> str:
    """Convert a value to text; whole floats have no decimals.

    Raises:
        RequestError: neither text nor a finite number, a lone surrogate or NUL, or a spreadsheet's error value.
    """
    if isinstance(value, str):
        if value.strip() in SHEET_ERRORS:
            reason = "is a spreadsheet's error, not text"
            raise RequestError("garbled_text", reason, "correct that cell", name, value)
        check_characters(name, value)
        return value
    if isinstance(value, Integral) and not isinstance(value, bool):
        return str(value)
    number = _number(value)
    if number is None or not math.isfinite(number):
        raise RequestError("not_text", "is not text", "write it as text", name, value)
    if isinstance(value, Decimal):
        return f"{value:.0f}" if value == value.to_integral_value() else str(value)
    if not number.is_integer():
        return str(value)
    _refuse_lost_digits(name, value, number)
    return str(int(number))


def as_number(name: str, value: Any) -> float:
    """Convert a value to a number; a 16- or 32-bit float becomes the decimal number that it prints as.

    Raises:
        RequestError: the value is not a number.
    """
    number = _number(value)
    if number is None:
        is_decimal = isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value)
        remedy = f"write a decimal point: {value.strip().replace(',', '.')}" if is_decimal else ""
        raise RequestError("wrong_type", "is not a number", remedy, name, value)
    return number


def as_whole_number(name: str, value: Any) -> int:
    """Convert a value to an integer, including ``108.0`` and ``"108"``.

    Raises:
        RequestError: the value is not a whole number, or a float too large to be exact.
    """
    number = _number(value)
    exact = Decimal(value) if isinstance(value, str) and number is not None else value
    if number is None or not math.isfinite(number) or exact != int(exact):
        raise RequestError("wrong_type", "is not a whole number", field=name, value=value)
    if not isinstance(value, Integral | str | Decimal):
        _refuse_lost_digits(name, value, number)
    return int(exact)


def as_kind(name: str, kind: Any, value: Any) -> Any:
    """Convert a value, which may be text, to a parameter's type: text, number, boolean or tuple of numbers.

    Raises:
        RequestError: the value cannot be converted.
    """
    if value is None and type(None) in get_args(kind):
        return None
    if kind is str:
        return unix_lines(as_text(name, value))
    if kind is float:
        return as_number(name, value)
    if kind is bool:
        word = str(value).strip().lower()
        if word not in _BOOLEANS:
            raise RequestError("wrong_type", "is not true or false", field=name, value=value)
        return _BOOLEANS[word]
    if int in (kind, *get_args(kind)):
        return as_whole_number(name, value)
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise RequestError("wrong_type", "is not a list of numbers", field=name, value=value)
    return tuple(as_number(name, part) for part in parts)


def unix_lines(text: str) -> str:
    """Normalize line ends (CR LF, CR, and Excel's escaped CR) to LF."""
    return _LINE_END.sub("\n", text) if "\r" in text or "_x000" in text else text


def check_characters(name: str, text: str) -> None:
    """Check that text can be stored.

    Raises:
        RequestError: it has a lone surrogate, which JSON allows and UTF-8 does not, or a NUL.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = text.encode(errors="replace").decode()
        raise RequestError("garbled_text", "holds half a character", "write it anew", name, shown) from None
    if "\0" in text:
        raise RequestError("garbled_text", "holds a NUL character", "write it anew", name, text)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | Real | Decimal):
        return None
    if isinstance(value, str) and "_" in value:  # Python's float() reads 1_0 as 10
        return None
    try:
        return float(str(value) if isinstance(value, np.float32 | np.float16) else value)
    except (ValueError, OverflowError):
        return None


def _refuse_lost_digits(name: str, value: Any, number: float) -> None:
    """Refuse a float so large that it does not represent whole numbers exactly."""
    kind = type(value) if isinstance(value, np.floating) else float
    if abs(number) >= 2 ** (np.finfo(kind).nmant + 1):
        remedy = "write it as text or as an integer"
        raise RequestError("lost_digits", "is a float and has lost digits", remedy, name, value)
