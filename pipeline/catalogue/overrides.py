"""Format values as Hydra command-line overrides."""

import re
from collections.abc import Mapping, Sequence

# Unquoted words that Hydra does not parse as text.
_NO_TEXT = ("null", "true", "false", "nan", "inf")


def as_override(value: object) -> str:
    """Format a value as the right side of ``key=value``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{as_override(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(as_override, value)) + "]"
    return _text(value) if isinstance(value, str) else repr(value)


def _text(text: str) -> str:
    if re.fullmatch(r"[A-Za-z/][\w./-]*", text, re.ASCII) and text.lower() not in _NO_TEXT:
        return text
    return quoted(re.sub(r"(\\*)\$\{", r"\1\1\\${", text))


def quoted(text: str) -> str:
    """Quote a text; interpolations ``${...}`` keep their meaning.

    Backslashes are doubled only before a quote and at the end.
    """
    mark = "'" if '"' in text else '"'
    return mark + re.sub(rf"(\\*){mark}", rf"\1\1\\{mark}", re.sub(r"(\\+)\Z", r"\1\1", text)) + mark
