"""Regular files, opened without waiting for anybody."""

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
    """A folder, a pipe, a socket or a device in the place of an audio file."""


def open_regular(path: str | Path) -> int:
    """Descriptor of a regular file, open for reading.

    The kind is looked at before the file is opened, since opening a device can have effects, and again on the
    descriptor. A pipe that takes the file's place in between does not block.

    Raises:
        NotAFileError: it is not a regular file.
        OSError: it cannot be opened.
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
        raise NotAFileError(f"not a regular file but {kind}; name an audio file")
