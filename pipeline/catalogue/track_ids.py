"""Track ids, which name folders and files of the output."""

import re
import unicodedata
from typing import Any

from acestep.parameters.values import as_text, composed

MAX_ID_BYTES = 200  # file systems allow 255 for a name
_WHOLE_FLOAT = re.compile(r"(\d+)\.0+", re.ASCII)
SHORTENED = re.compile(r"\d[.,]\d+E\+?\d{2,}", re.ASCII | re.IGNORECASE)  # a long number as shown by a spreadsheet
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9]) *(\..*)?")  # Windows device names, with any extension
_PLAIN_NAME = re.compile(r"\w[\w\-. ]*(?<![. ])", re.ASCII)


def track_id_of(value: Any) -> str:
    """Normalize an id: composed Unicode, and ``7`` for ``7.0``, which pandas makes of 7 in a column with gaps.

    Raises:
        RequestError: the value is not text.
    """
    text = composed(as_text("track_id", value))
    whole = _WHOLE_FLOAT.fullmatch(text)
    return whole.group(1) if whole else text


def file_name_key(text: str) -> str:
    """Key under which names are equal that a case- and form-insensitive filesystem treats as one file."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def is_device(name: str) -> bool:
    """Whether a name is reserved for a device on Windows, such as ``con`` or ``COM1.wav``."""
    return _DEVICE.fullmatch(file_name_key(name)) is not None


def names_a_folder(text: str) -> bool:
    """Whether a name is a portable folder name: letters of any script, digits, ``_-.`` and spaces."""
    if _PLAIN_NAME.fullmatch(text):
        return len(text) <= MAX_ID_BYTES
    plain = all(unicodedata.category(c)[0] in "LMN" or c in "_-. " for c in text)
    begins = bool(text) and (unicodedata.category(text[0])[0] in "LN" or text[0] == "_")
    return plain and begins and text[-1] not in ". " and len(text.encode()) <= MAX_ID_BYTES
