"""Passwords in URIs: masked before a URI is printed or stored."""

import re

MASK = "***"
_USER = re.compile(r"(?<=://)[^/]*@")
_NAMES = (
    "passw|passphrase|pwd|token|secret|signature|credential|odbc_connect|(?:api|access|private|account)[_-]?key"
)
# A password may hold any character but the separator of the query.
_VALUES = re.compile(rf"([?&;](?:[^=&?;]*(?:{_NAMES})[^=&?;]*|pass|sig|key|auth)=)[^&]*", re.IGNORECASE)


def shown(uri: str) -> str:
    """A URI, or a command-line argument with one in it, without its user, password and secret query values."""
    return _VALUES.sub(rf"\1{MASK}", _USER.sub(f"{MASK}@", uri))
