"""Opens files below a folder without following symbolic links that are created meanwhile."""

import os
from typing import BinaryIO

# Intermediate folders need search permission only.
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
# O_NONBLOCK: opening a pipe must not wait for its other end.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def open_beneath(root: str, path: str) -> BinaryIO:
    """Open a file by its path, following no link below ``root``. ``/dev/fd/<its number>`` names the opened file in
    this process, even if its path changes.

    Args:
        root: an absolute path.
        path: an absolute path below it, with links resolved.

    Raises:
        OSError: the file is missing, behind a link (ELOOP, ENOTDIR), or not readable.
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
