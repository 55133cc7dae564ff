"""Standard streams that ignore a closed reader and mask passwords."""

import errno
import io
import os
import sys
from contextlib import suppress
from typing import Any

from acestep.redaction import without_secrets

GONE = (errno.EPIPE, errno.EIO, errno.ENXIO)  # closed pipe or terminal
WORD = b"warning: nobody reads the standard output any more; the job goes on without it\n"


class _Output(io.FileIO):
    """Raw standard stream that ignores write errors."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in GONE:
                self._leave()
            return memoryview(data).nbytes

    def _leave(self) -> None:
        # Redirects native code and child processes too.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if self.fileno() == 1:
            with suppress(OSError):
                os.write(2, WORD)


class TextOutput(io.TextIOWrapper):
    """Text stream that masks passwords in URIs."""

    def write(self, text: str, /) -> int:
        super().write(without_secrets(text))
        return len(text)


def make_lasting() -> None:
    """Replace the standard streams by ones that survive a closed reader and mask passwords.

    Closed standard descriptors are opened on /dev/null; otherwise the next opened file would get their number and
    receive what libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout, sys.stderr = _lasting(1, sys.stdout), _lasting(2, sys.stderr)


def _lasting(number: int, stream: Any) -> io.TextIOWrapper:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    raw = io.BufferedWriter(_Output(number, "w", closefd=False))
    return TextOutput(raw, encoding, errors="backslashreplace", line_buffering=True)
