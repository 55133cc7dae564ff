"""The files of an output folder that a service keeps and may remove, with size and last use."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from pyarrow import fs

from pipeline.storage.store import Store

# Folders and the depth of their files; files of other names do not belong to the service.
FOLDERS = {"uploads": 1, "orders": 1, "orders/open": 1, "audio": 2, "batches": 2}
_KEPT = re.compile(
    r"uploads/[0-9a-f]{64}|orders/[\w-]+\.json|audio/[0-9a-f]{20}/[0-9a-f]{20}\.\w+"
    r"|batches/[0-9a-f]{20}-\d+/manifest\.csv"
)
# Temporary files of a killed process; ``tmp...`` are uploads of an earlier version.
_UNFINISHED = re.compile(
    r"(?:uploads|orders|orders/open|audio/[0-9a-f]{20}|batches/[0-9a-f]{20}-\d+)/"
    r"(?:.+\.[0-9a-f]{32}\.tmp|(?<=uploads/)tmp\w{8})"
)


class RetainedFile(NamedTuple):
    """A file: its name in the output folder, size in bytes, and last use in seconds since 1970."""

    name: str
    size: int
    used_at: float


def kept_files(store: Store) -> Iterator[RetainedFile]:
    """The files that a service keeps, in no order."""
    return (file for file in _files(store) if _KEPT.fullmatch(file.name))


def remove_unfinished(store: Store) -> None:
    """Remove the temporary files of a killed service."""
    for file in _files(store):
        if _UNFINISHED.fullmatch(file.name):
            store.delete(file.name)


def note_use(store: Store, name: str) -> None:
    """Set the access time of a file; object stores have none."""
    if store.is_local:
        path = store.path(name)
        with suppress(OSError):
            os.utime(path, ns=(time.time_ns(), os.stat(path).st_mtime_ns))


def free_bytes(store: Store) -> int | None:
    """Free bytes of a folder's disk; None for an object store."""
    return shutil.disk_usage(store.root).free if store.is_local else None


def remove_folder(store: Store, name: str) -> None:
    """Remove an empty folder; object stores have none."""
    if store.is_local:
        with suppress(OSError):
            os.rmdir(store.path(name))


def _files(store: Store) -> Iterator[RetainedFile]:
    for folder, depth in FOLDERS.items():
        yield from _local(store, folder, depth) if store.is_local else _remote(store, folder, depth)


def _local(store: Store, folder: str, depth: int) -> Iterator[RetainedFile]:
    try:
        found = os.scandir(store.path(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    with found:
        for entry in found:
            name = f"{folder}/{entry.name}"
            if depth > 1 and entry.is_dir(follow_symlinks=False):
                yield from _local(store, name, depth - 1)
            elif entry.is_file(follow_symlinks=False):
                info = entry.stat(follow_symlinks=False)
                yield RetainedFile(name, info.st_size, max(info.st_atime, info.st_mtime))


def _remote(store: Store, folder: str, depth: int) -> Iterator[RetainedFile]:
    selector = fs.FileSelector(store.path(folder), allow_not_found=True, recursive=depth > 1)
    for info in store.retrying(lambda: store.filesystem.get_file_info(selector)):
        if info.is_file:
            used_at = (info.mtime_ns or 0) / 1e9
            yield RetainedFile(info.path[len(store.root) + 1 :], info.size, used_at)
