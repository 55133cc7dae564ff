"""Open regular files without blocking on pipes or devices."""

import os
import stat
from pathlib import Path

from acestep.errors import RestyleError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotAFileError(RestyleError):
    """The path is a folder, a pipe, a socket or a device."""


def open_regular(path: str | Path) -> int:
    """Open a regular file for reading and return its descriptor.

    The type is checked before opening, because opening a device can have side effects, and again on the
    descriptor. The open does not block if the file is replaced by a pipe in between.

    Raises:
        NotAFileError: the path is not a regular file.
        OSError: the file cannot be opened.
    """
    _refuse_other(os.stat(path).st_mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _refuse_other(os.fstat(descriptor).st_mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_other(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise NotAFileError("unreadable_file", f"not a regular file but {kind}", "name an audio file")
