"""Mask secrets in URIs before they are printed or stored."""

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any
from urllib.parse import unquote

MASK = "***"
# In these schemes a user without a password is part of the location, such as a container name.
_PLACES = ("abfs", "abfss", "gcs", "gs", "hdfs", "viewfs")
# The second alternative matches a password that contains a slash. All parts are bounded or end where the next
# match could begin, to avoid quadratic time on texts from clients.
_USER = re.compile(r"://([^/]*|[^/@:[]*:(?!\d*(?:[/?#]|$))[^@]{0,500})@")
_SCHEME = re.compile(r"[a-z][\w+.-]*$", re.IGNORECASE)
_SCHEME_CHARACTERS = 30
_NAMES = (
    "passw|passphrase|pwd|token|secret|signature|credential|hmac|odbc_connect|"
    "(?:api|access|private|account)[_-]?key"
)
# A password may contain any character except the separator of the query.
_VALUES = re.compile(
    rf"([?&;#](?=[^=&?;#]*=)(?:[^=&?;#]*(?:{_NAMES})[^=&?;#]*|pass|sig|sas|jwt|key|auth)=)[^&]*", re.IGNORECASE
)
_PAIRS = re.compile(r"([?&;#][^=&?;#]*=)([^&#]*)")
_ENCODINGS = 3  # levels of percent-encoding of a nested URI
_CLOSING = ")]}>'\".,;:"


def redacted(uri: str) -> str:
    """A URI, or a command-line argument with one in it, without its user, password and secret query values.

    A path is left as it is.
    """
    return _masked(uri) if "://" in uri else uri


def without_secrets(text: str) -> str:
    """A text, such as the message of an error, with its URIs as ``redacted`` has them."""
    if "://" not in text and "?" not in text and "&" not in text:
        return text
    return re.sub(r"\S+", _word, text)


def redacted_values(content: Any) -> Any:
    """Plain data (dataclasses, mappings, sequences) with its texts as ``without_secrets`` has them."""
    if isinstance(content, str):
        return redacted(content) if "://" in content and " " not in content else without_secrets(content)
    if is_dataclass(content) and not isinstance(content, type):
        return {field.name: redacted_values(getattr(content, field.name)) for field in fields(content)}
    if isinstance(content, Mapping):
        return {key: redacted_values(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [redacted_values(value) for value in content]
    return content


def _masked(text: str) -> str:
    return _PAIRS.sub(_pair, _outer(text))


def _outer(text: str) -> str:
    return _VALUES.sub(rf"\1{MASK}", _USER.sub(_user, text))


def _user(match: re.Match[str]) -> str:
    before = match.string[max(match.start() - _SCHEME_CHARACTERS, 0) : match.start()]
    scheme, user = _SCHEME.search(before), match[1]
    if scheme is None or scheme[0].lower() not in _PLACES:
        return f"://{MASK}@"
    name, colon, _ = user.partition(":")
    return f"://{name}:{MASK}@" if colon else match.group()


def _pair(match: re.Match[str]) -> str:
    """Mask a query value that is a URI with secrets, such as an endpoint."""
    name, inner = match.groups()
    for _ in range(_ENCODINGS):
        inner = unquote(inner)
        if "://" in inner and _outer(inner) != inner:
            return name + MASK
    return match.group()


def _word(match: re.Match[str]) -> str:
    word = match.group()
    bare = word.rstrip(_CLOSING)
    return _masked(bare) + word[len(bare) :]
