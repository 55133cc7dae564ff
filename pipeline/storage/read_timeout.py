"""Reads with a timeout. Each read runs in a daemon thread that is abandoned when it hangs.

A thread blocked in the kernel, for example on a dead mount, cannot be ended. The number of hung reads per location
is bounded: further reads there fail immediately until one returns.
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
MAX_HUNG = 4  # abandoned reads per location
POLL_S = 0.25
MAX_LINKS = 40
MOUNTS = Path("/proc/self/mounts")
# Any other mount hangs as a whole when its server does.
LOCAL_KINDS = frozenset("apfs btrfs devtmpfs ext2 ext3 ext4 hfs overlay proc tmpfs vfat xfs zfs".split())

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
    """Timeout and cancellation of reads.

    timeout_s: seconds without progress after which a read is abandoned.
    stopped: returns True to cancel; polled every ``POLL_S`` seconds during a read.
    """

    timeout_s: float = SOURCE_TIMEOUT_S
    stopped: Callable[[], bool] = never

    def run(self, uri: str, read: Callable[[Tick], Result]) -> Result:
        """Run ``read`` and return its result.

        Args:
            uri: location that is read.
            read: receives a function to call before each attempt and whenever bytes arrive.

        Raises:
            SourceTimeoutError: the read hangs, or ``MAX_HUNG`` earlier reads of the location still do.
            ReadStoppedError: ``stopped`` returned True.
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
                remedy = "see whether its storage answers, or allow more with source_timeout_s"
                reason = f"nothing of it could be read for {self.timeout_s:g} s"
                raise SourceTimeoutError("source_timeout", reason, remedy)
        return reader.result()


DEFAULT_READ_TIMEOUT = ReadTimeout()


class _Reader(threading.Thread, Generic[Result]):
    """Thread of one read; ``done`` is set when the read has returned or raised."""

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
    """Yield a thread pool for reads and the ``ReadTimeout`` to read with.

    An exception in the block, such as KeyboardInterrupt, cancels the reads instead of waiting for their timeout.
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
    """The failure domain of ``uri``: its bucket or host, its mount, or its folder on a local disk.

    Does not access files on a mount that may be dead.
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
    """Mount points of filesystems that are not local."""
    try:
        return _mounts_of(MOUNTS.read_bytes())
    except OSError:  # not on Linux
        return _mounts_of.__wrapped__(b"")


@lru_cache(maxsize=1)
def _mounts_of(table: bytes) -> frozenset[str]:
    """``_mounts``, cached by the content of the kernel's mount table."""
    return frozenset(m.mountpoint for m in psutil.disk_partitions(all=True) if m.fstype not in LOCAL_KINDS)


def _refuse_hung(uri: str) -> None:
    with _lock:
        for place in list(_hung):
            _hung[place] = [reader for reader in _hung[place] if reader.is_alive()]
            if not _hung[place]:
                del _hung[place]
        full = {place for place, readers in _hung.items() if len(readers) >= MAX_HUNG}
    if full and (place := mount_of(uri)) in full:
        reason = f"{MAX_HUNG} earlier reads of {place} hang"
        raise SourceTimeoutError("source_timeout", reason, "see whether it answers")


def _abandon(uri: str, reader: _Reader[Any]) -> None:
    reader.abandoned = True
    place = mount_of(uri)
    with _lock:
        _hung[place].append(reader)
