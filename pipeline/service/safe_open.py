"""Files below a folder, opened so that no link that somebody sets meanwhile leads out of it."""

import os
from typing import BinaryIO

# A folder on the way needs to be passed, not listed.
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
# Opening a pipe must not wait for its other end.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def open_beneath(root: str, path: str) -> BinaryIO:
    """Open a file by its path, following no link below ``root``. ``/dev/fd/<its number>`` names the very file that
    was opened, for this process, wherever its path leads meanwhile.

    Args:
        root: an absolute path.
        path: an absolute path below it, its links resolved.

    Raises:
        OSError: it is not there, is behind a link by now (ELOOP, ENOTDIR), or may not be read.
    """
    *folders, name = os.path.relpath(path, root).split(os.sep)
    at = os.open(root, _FOLDER & ~os.O_NOFOLLOW)
    try:
        for folder in folders:
            inner = os.open(folder, _FOLDER, dir_fd=at)
            os.close(at)
            at = inner
        file = os.open(name, _FILE, dir_fd=at)
    finally:
        os.close(at)
    try:
        return open(file, "rb", buffering=0)
    except OSError:  # a folder
        os.close(file)
        raise
