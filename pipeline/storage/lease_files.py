"""Lease files ``.N.lease`` of a folder: read, touch, list, age."""

import errno
import json
import os
import uuid
from dataclasses import asdict

from acestep.parameters.values import from_json
from pipeline.storage.lease_holder import LeaseHolder
from pipeline.storage.store import Store

SUFFIX = ".lease"
_GONE = (errno.ENOENT, errno.ESTALE)


def touch(store: Store, number: int, holder: LeaseHolder) -> None:
    if store.is_local:
        os.utime(store.path(file_name(number)))
    else:
        store.write(file_name(number), json.dumps(asdict(holder)).encode())


def read_lease(store: Store, number: int) -> tuple[LeaseHolder, int] | None:
    """LeaseHolder and modification time (ns) of a lease; None if the file does not exist."""
    path = store.path(file_name(number))
    try:
        if store.is_local:
            # On NFS, opening the file revalidates the client's attribute cache.
            with open(path, "rb") as file:
                return _parsed(file.read()), os.fstat(file.fileno()).st_mtime_ns
        content = store.read(file_name(number))
        [info] = store.retrying(lambda: store.filesystem.get_file_info([path]))
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno in _GONE:
            return None
        raise
    return _parsed(content), info.mtime_ns or 0


def inode_of(store: Store) -> int:
    return os.stat(store.root or "/").st_ino if store.is_local else 0


def token_of(store: Store, number: int) -> str | None:
    found = read_lease(store, number)
    return found[0].token if found else None


def _parsed(content: bytes) -> LeaseHolder:
    try:
        return LeaseHolder(**from_json(content))
    except (ValueError, TypeError):  # partly written, or by another version
        return LeaseHolder()


def lease_numbers(store: Store) -> list[int]:
    names = (name.removeprefix(".").removesuffix(SUFFIX) for name in store.files("", SUFFIX))
    return [int(name) for name in names if name.isdecimal()]


def file_name(number: int) -> str:
    return f".{number}{SUFFIX}"


def seconds_since_touch(store: Store, touched_ns: int) -> float:
    """Age of a modification time in seconds, by the storage's own clock: machine clocks may differ."""
    probe = f".{uuid.uuid4().hex}.clock"
    store.write(probe, b"")
    [info] = store.retrying(lambda: store.filesystem.get_file_info([store.path(probe)]))
    store.delete(probe)
    return ((info.mtime_ns or 0) - touched_ns) / 1e9
