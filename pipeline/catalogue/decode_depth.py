"""How far a source is decoded to check it."""

from typing import Literal

Decode = Literal["start", "full", "none"]
DECODES = ("start", "full", "none")
