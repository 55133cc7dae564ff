"""Values as people and programs write them: one set of rules for manifests, HTTP, the page and Python.

None, NaN and blank text are empty. Numbers may stand where text belongs, and numerals where a number belongs;
lists, mappings, booleans and bytes may not.
"""

import math
import re
from datetime import datetime
from decimal import Decimal
from numbers import Integral, Number, Real
from typing import Any

from acestep.errors import RequestError

SHEET_ERRORS = frozenset(
    {"#NAME?", "#REF!", "#VALUE!", "#DIV/0!", "#NUM!", "#NULL!", "#SPILL!", "#CALC!", "#FIELD!", "#ERROR!"}
)
MAX_EXACT_FLOAT = 2**53  # above it neighbouring whole numbers share one float
_LINE_END = re.compile(r"(?:_x000D_)?\r?\n|\r|_x000D_", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")


def is_empty(value: Any) -> bool:
    """True for None, NaN, NaT and blank text."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, Number | datetime) and bool(value != value))


def as_text(name: str, value: Any) -> str:
    """A value as text; whole floats are written without a fraction.

    Raises:
        RequestError: it is neither text nor a finite number, has half a character or a NUL, or is the error that a
            spreadsheet shows in place of a value.
    """
    if isinstance(value, str):
        if value.strip() in SHEET_ERRORS:
            raise RequestError(f"{name} {value!r} is a spreadsheet's error, not text; correct that cell")
        check_characters(name, value)
        return value
    if isinstance(value, Integral) and not isinstance(value, bool):
        return str(value)
    number = _number(value)
    if number is None or not math.isfinite(number):
        raise RequestError(f"{name} {value!r:.80} is not text; write it as text")
    if not number.is_integer():
        return str(value)
    if isinstance(value, Decimal):
        return f"{value:.0f}"
    if abs(number) >= MAX_EXACT_FLOAT:
        raise RequestError(f"{name} {value!r} is a float and has lost digits; write it as text or as an integer")
    return str(int(number))


def as_number(name: str, value: Any) -> float:
    """A value as a number.

    Raises:
        RequestError: it is none.
    """
    number = _number(value)
    if number is None:
        is_decimal = isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value)
        hint = f"; write a decimal point: {value.strip().replace(',', '.')}" if is_decimal else ""
        raise RequestError(f"{name} {value!r:.80} is not a number{hint}")
    return number


def as_whole_number(name: str, value: Any) -> int:
    """A value as a whole number, ``108.0`` and ``"108"`` included.

    Raises:
        RequestError: it is none.
    """
    number = _number(value)
    if number is None or not number.is_integer():
        raise RequestError(f"{name} {value!r:.80} is not a whole number")
    return int(value) if isinstance(value, Integral) else int(number)


def unix_lines(text: str) -> str:
    """Text with LF at the end of every line, in place of CR LF, CR, or Excel's escape of a CR in its files."""
    return _LINE_END.sub("\n", text) if "\r" in text or "_x000" in text else text


def check_characters(name: str, text: str) -> None:
    """Refuse text that no file could hold.

    Raises:
        RequestError: it has half a character, which JSON allows and UTF-8 does not, or a NUL.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = text.encode(errors="replace").decode()
        raise RequestError(f"{name} {shown!r:.80} holds half a character; write it anew") from None
    if "\0" in text:
        raise RequestError(f"{name} {text!r:.80} holds a NUL character; write it anew")


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | Real | Decimal):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
