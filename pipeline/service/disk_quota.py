"""Accounting of the files that a service keeps: the least recently used goes first, one that is in use never.

The state is in memory. It is filled once from a listing and kept up to date by those who write, so that no request
walks a folder.
"""

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.service.config import StoreSpec
from pipeline.service.problem_details import short_of_space

BLOCK_BYTES = 4096  # what a small file takes
# Of a disk that has less room than ``store.max_gb``, a service takes this share.
DISK_SHARE = 0.9
# Stays free: for orders, receipts and result rows, which are written beside covers.
RESERVE_BYTES = 16 << 20
log = logging.getLogger(__name__)


@dataclass
class StoredFile:
    """A kept file: bytes on disk, when it was used last (seconds since 1970)."""

    size: int
    used_at: float


class DiskQuota:
    """The files of one service, by name in its output folder. Its methods may be called from any thread.

    Args:
        remove: deletes a file and what belongs to it; raises OSError where that fails.
        touch: notes on the disk that a file was used.
        free: bytes that are free on the disk, None where that is not known.
    """

    def __init__(
        self,
        spec: StoreSpec | None = None,
        remove: Callable[[str], None] = lambda name: None,
        touch: Callable[[str], None] = lambda name: None,
        free: Callable[[], int | None] = lambda: None,
    ):
        self.spec = spec or StoreSpec()
        self.remove, self.touch, self.ask_free = remove, touch, free
        self.entries: OrderedDict[str, StoredFile] = OrderedDict()  # least recently used first
        self.holds: Counter[str] = Counter()
        self.promises: dict[str, int] = {}  # bytes of covers to come, by item
        self.kept = 0
        self.free: int | None = None
        self.max_bytes = self.spec.max_bytes
        self.going: set[str] = set()  # files that are being removed
        self.lock = threading.RLock()
        self.gone = threading.Condition(self.lock)

    def fill(self, files: Iterable[tuple[str, int, float]]) -> None:
        """Take account of what is there: (name, bytes, last use in seconds since 1970) each."""
        with self.lock:
            for name, size, used_at in sorted(files, key=lambda file: file[2]):
                self._put(name, StoredFile(_on_disk(size), used_at))
            self.max_bytes = 0.0
        self.look()

    def look(self) -> None:
        """See how much is free on the disk.

        The bound on what is kept grows with it, and does not shrink where somebody else fills the disk.
        """
        self.free = free = self.ask_free()
        with self.lock:
            quota = self.spec.max_bytes if free is None else DISK_SHARE * (self.kept + free)
            self.max_bytes = max(self.max_bytes, min(self.spec.max_bytes, quota))

    def add(self, name: str, size: int) -> None:
        """Take account of a file that was written, and remove others where there is too much."""
        with self.lock:
            self._put(name, StoredFile(_on_disk(size), time.time()))
        self.make_way()

    def used(self, *names: str) -> None:
        """Somebody used files; names that are not kept are fine."""
        with self.lock:
            known = [name for name in names if name in self.entries]
            for name in known:
                self.entries[name].used_at = time.time()
                self.entries.move_to_end(name)
        for name in known:
            self.touch(name)

    def forget(self, name: str) -> None:
        """A file is gone."""
        with self.lock:
            entry = self.entries.pop(name, None)
            self.kept -= entry.size if entry else 0

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def hold(self, *names: str) -> None:
        """Keep files, or those that will be written under these names, until ``release``."""
        with self.lock:
            self.holds.update(names)

    def settle(self, *names: str) -> None:
        """Wait until none of these files is being removed; one that is held goes no more after that."""
        with self.gone:
            self.gone.wait_for(lambda: self.going.isdisjoint(names))

    def release(self, *names: str) -> None:
        """Undo a ``hold``."""
        with self.lock:
            for name in names:
                self.holds[name] -= 1
                if self.holds[name] <= 0:
                    del self.holds[name]

    def holds_below(self, folder: str) -> bool:
        """Whether a file is held whose name starts so."""
        with self.lock:
            return any(name.startswith(folder) for name in self.holds)

    @contextmanager
    def holding(self, *names: str) -> Iterator[None]:
        """Keep files while the block runs."""
        self.hold(*names)
        try:
            yield
        finally:
            self.release(*names)

    def demand(self, size: int) -> None:
        """See that there is room for so many more bytes.

        Raises:
            ProblemError: 507.
        """
        with self.lock:
            promised = sum(self.promises.values())
            held = sum(self.entries[name].size for name in self.holds if name in self.entries)
        if self.free is not None and self.free < size + promised + RESERVE_BYTES:
            raise short_of_space(
                f"{_mb(self.free)} are free on the service's disk, and this needs {_mb(size)} beside "
                f"{_mb(promised + RESERVE_BYTES)} that are reserved"
            )
        if held + promised + size > self.max_bytes:
            raise short_of_space(
                f"the service keeps up to {_mb(self.max_bytes)}, of which {_mb(held + promised)} are in use, and "
                f"this needs {_mb(size)}"
            )

    def promise(self, sizes: Mapping[str, int], refuse: bool = True) -> None:
        """Reserve room for covers to come, by item, until ``fulfil``.

        Raises:
            ProblemError: 507, and nothing is reserved; never without ``refuse``.
        """
        with self.lock:
            if refuse:
                self.demand(sum(sizes.values()))
            self.promises |= sizes

    def fulfil(self, item_id: str) -> None:
        """A cover is written, or will never be."""
        with self.lock:
            self.promises.pop(item_id, None)

    def make_way(self) -> None:
        """Remove what is too much, and what was not used for ``keep_days``."""
        while self._remove_oldest():
            pass

    def discard(self, name: str) -> None:
        """Remove a file that nobody holds."""
        with self.lock:
            found = name in self.entries and name not in self.holds
            entry = self._leave(name) if found else None
        if entry:
            self._drop(name, entry)

    def state(self) -> dict[str, Any]:
        """For ``/health``."""
        with self.lock:
            promised = sum(self.promises.values())
        short = self.free is not None and self.free < promised + RESERVE_BYTES
        return {
            "kept_bytes": self.kept,
            "most_bytes": round(self.max_bytes),
            "free_bytes": self.free,
            "files": len(self.entries),
            "short": short,
        }

    def _remove_oldest(self) -> bool:
        """Remove the file that has to go first; False where none has to."""
        with self.lock:
            too_much = self.kept + sum(self.promises.values()) > self.max_bytes
            too_old = time.time() - self.spec.keep_s
            for name, entry in self.entries.items():
                if not too_much and entry.used_at >= too_old:
                    return False
                if name not in self.holds:
                    chosen = name
                    break
            else:
                return False
            entry = self._leave(chosen)
        return self._drop(chosen, entry)

    def _leave(self, name: str) -> StoredFile:
        """Take a file out of account, which is about to be removed."""
        entry = self.entries[name]
        self.forget(name)
        self.going.add(name)
        return entry

    def _drop(self, name: str, entry: StoredFile) -> bool:
        # Without the lock: where storage is slow or away, requests and /health need not wait for it.
        removed = False
        try:
            self.remove(name)
            removed = True
        except OSError as error:
            log.warning("%s cannot be removed: %s", name, error)
        finally:
            with self.gone:
                if removed:
                    self.forget(name)  # somebody may have counted it again meanwhile
                else:
                    self._put(name, entry)  # at the end: others may go
                self.going.discard(name)
                self.gone.notify_all()
        return removed

    def _put(self, name: str, entry: StoredFile) -> None:
        self.forget(name)
        self.entries[name] = entry
        self.kept += entry.size


def _on_disk(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB"
