"""Reads that may hang. Each runs in a daemon thread, which is abandoned when the read does not return.

A thread that waits in the kernel, such as for a dead mount, cannot be ended. How many may hang at one place is
bounded: further reads there fail at once until one of them returns.
"""

import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import unquote, urlsplit

import psutil

from pipeline.storage.source_errors import ReadStoppedError, SourceTimeoutError

SOURCE_TIMEOUT_S = 120.0
MAX_HUNG = 4  # abandoned reads of one place
POLL_S = 0.25
MAX_LINKS = 40
MOUNTS = Path("/proc/self/mounts")
# A mount of any other kind hangs as a whole, when its server does.
LOCAL_KINDS = {
    "apfs",
    "btrfs",
    "devtmpfs",
    "ext2",
    "ext3",
    "ext4",
    "hfs",
    "overlay",
    "proc",
    "tmpfs",
    "vfat",
    "xfs",
    "zfs",
}

Result = TypeVar("Result")
Tick = Callable[[], None]
log = logging.getLogger(__name__)
_lock = threading.Lock()
_hung: dict[str, list[threading.Thread]] = defaultdict(list)


def never() -> bool:
    """False."""
    return False


@dataclass(frozen=True)
class ReadTimeout:
    """How long a read may take.

    timeout_s: seconds without progress after which it is abandoned.
    stopped: whether nobody waits for results any more; asked four times a second while a read takes long.
    """

    timeout_s: float = SOURCE_TIMEOUT_S
    stopped: Callable[[], bool] = never

    def run(self, uri: str, read: Callable[[Tick], Result]) -> Result:
        """What ``read`` returns or raises; it calls its argument before each try and whenever bytes have arrived.

        Args:
            uri: what is read.

        Raises:
            SourceTimeoutError: the read hangs, or ``MAX_HUNG`` earlier ones of its place still do.
            ReadStoppedError: ``stopped`` became true.
        """
        _refuse_hung(uri)
        reader = _Reader(read)
        reader.start()
        while not reader.done.wait(POLL_S):
            if self.stopped():
                _abandon(uri, reader)
                raise ReadStoppedError(uri)
            if time.monotonic() - reader.ticked_at > self.timeout_s:
                _abandon(uri, reader)
                log.warning("a read of %s hangs and is abandoned", uri)
                raise SourceTimeoutError(
                    f"nothing of it could be read for {self.timeout_s:g} s; see whether its storage answers, or "
                    "allow more with source_timeout_s"
                )
        return reader.result()


DEFAULT_READ_TIMEOUT = ReadTimeout()


class _Reader(threading.Thread, Generic[Result]):
    """Runs one read; ``done`` is set when it has returned or raised."""

    def __init__(self, read: Callable[[Tick], Result]):
        super().__init__(name="restyle-read", daemon=True)
        self.read = read
        self.done = threading.Event()
        self.ticked_at = time.monotonic()
        self.abandoned = False
        self.returned: list[Result] = []
        self.raised: BaseException | None = None

    def run(self) -> None:
        try:
            self.returned.append(self.read(self._tick))
        except BaseException as error:
            self.raised = error
        self.done.set()

    def _tick(self) -> None:
        if self.abandoned:
            raise ReadStoppedError
        self.ticked_at = time.monotonic()

    def result(self) -> Result:
        if self.raised is not None:
            raise self.raised
        return self.returned[0]


@contextmanager
def reader_pool(threads: int, timeout: ReadTimeout) -> Iterator[tuple[ThreadPoolExecutor, ReadTimeout]]:
    """A pool of threads that read, and the patience they read with.

    An exception in the block, such as Ctrl-C, ends their reads: leaving the block does not wait for a timeout.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield pool, replace(timeout, stopped=lambda: stop.is_set() or timeout.stopped())
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def mount_of(uri: str) -> str:
    """What is likely to hang together with ``uri``: its bucket or host, its mount, or its folder on a local disk.

    No file of a mount that may be dead is touched.
    """
    parts = urlsplit(uri)
    if "://" in uri and parts.scheme != "file":
        return f"{parts.scheme}://{parts.netloc}"
    path = unquote(parts.path) if "://" in uri else os.path.abspath(os.path.expanduser(uri))
    mounts = _mounts()
    rest, current, links = path.split("/"), "", 0
    while rest:
        part = rest.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            current = current.rpartition("/")[0]
            continue
        current += f"/{part}"
        if current in mounts:
            return current
        if links < MAX_LINKS and os.path.islink(current):
            links += 1
            target = os.readlink(current)
            rest = target.split("/") + rest
            current = "" if target.startswith("/") else current.rpartition("/")[0]
    return current.rpartition("/")[0] or "/"


def _mounts() -> frozenset[str]:
    """Where other filesystems than local ones are mounted."""
    try:
        return _mounts_of(MOUNTS.read_bytes())
    except OSError:  # not on Linux
        return _mounts_of.__wrapped__(b"")


@lru_cache(maxsize=1)
def _mounts_of(table: bytes) -> frozenset[str]:
    """The same, asked for again where the kernel's table has changed."""
    return frozenset(m.mountpoint for m in psutil.disk_partitions(all=True) if m.fstype not in LOCAL_KINDS)


def _refuse_hung(uri: str) -> None:
    with _lock:
        for place in list(_hung):
            _hung[place] = [reader for reader in _hung[place] if reader.is_alive()]
            if not _hung[place]:
                del _hung[place]
        full = {place for place, readers in _hung.items() if len(readers) >= MAX_HUNG}
    if full and (place := mount_of(uri)) in full:
        raise SourceTimeoutError(f"{MAX_HUNG} earlier reads of {place} hang; see whether it answers")


def _abandon(uri: str, reader: _Reader[Any]) -> None:
    reader.abandoned = True
    place = mount_of(uri)
    with _lock:
        _hung[place].append(reader)
