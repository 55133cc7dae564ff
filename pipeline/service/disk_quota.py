"""Disk quota of the files that a service keeps; evicts the least recently used file that is not in use.

The state is in memory: filled once from a listing, then updated by every writer, so that requests list no folder.
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

BLOCK_BYTES = 4096  # minimum size of a file on disk
# Share of a disk that a service uses where the disk has less room than ``store.max_gb``.
DISK_SHARE = 0.9
# Stays free for requests, receipts and result rows, which are not counted.
RESERVE_BYTES = 16 << 20
log = logging.getLogger(__name__)


@dataclass
class StoredFile:
    """A kept file: its size on disk in bytes, and its last use in seconds since 1970."""

    size: int
    used_at: float


class DiskQuota:
    """The kept files of one service, by name in its output folder. Methods are thread-safe.

    Args:
        remove: deletes a file and everything that belongs to it; raises OSError if that fails.
        touch: records on disk that a file was used.
        free: free bytes of the disk, None if unknown.
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
        self.reservations: dict[str, int] = {}  # bytes of covers not yet written, by item
        self.kept = 0
        self.free: int | None = None
        self.max_bytes = self.spec.max_bytes
        self.being_removed: set[str] = set()  # files being removed
        self.lock = threading.RLock()
        self.removal_ended = threading.Condition(self.lock)

    def fill(self, files: Iterable[tuple[str, int, float]]) -> None:
        """Add existing files, each (name, bytes, last use in seconds since 1970)."""
        with self.lock:
            for name, size, used_at in sorted(files, key=lambda file: file[2]):
                self._put(name, StoredFile(_on_disk(size), used_at))
            self.max_bytes = 0.0
        self.look()

    def look(self) -> None:
        """Measure the free space of the disk.

        The limit grows with it, and does not shrink when other programs fill the disk.
        """
        self.free = free = self.ask_free()
        with self.lock:
            quota = self.spec.max_bytes if free is None else DISK_SHARE * (self.kept + free)
            self.max_bytes = max(self.max_bytes, min(self.spec.max_bytes, quota))

    def add(self, name: str, size: int) -> None:
        """Count a written file, and evict others beyond the limit."""
        with self.lock:
            self._put(name, StoredFile(_on_disk(size), time.time()))
        self.evict()

    def used(self, *names: str) -> None:
        """Record a use of files; unknown names are ignored."""
        with self.lock:
            known = [name for name in names if name in self.entries]
            for name in known:
                self.entries[name].used_at = time.time()
                self.entries.move_to_end(name)
        for name in known:
            self.touch(name)

    def forget(self, name: str) -> None:
        """Stop counting a file that is gone."""
        with self.lock:
            entry = self.entries.pop(name, None)
            self.kept -= entry.size if entry else 0

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def hold(self, *names: str) -> None:
        """Protect files, or those to be written under these names, until ``release``."""
        with self.lock:
            self.holds.update(names)

    def wait_for_removals(self, *names: str) -> None:
        """Wait until none of these files is being removed; held files are not removed after that."""
        with self.removal_ended:
            self.removal_ended.wait_for(lambda: self.being_removed.isdisjoint(names))

    def release(self, *names: str) -> None:
        with self.lock:
            for name in names:
                self.holds[name] -= 1
                if self.holds[name] <= 0:
                    del self.holds[name]

    def holds_below(self, folder: str) -> bool:
        """Whether a file below a folder is held."""
        with self.lock:
            return any(name.startswith(folder) for name in self.holds)

    @contextmanager
    def holding(self, *names: str) -> Iterator[None]:
        """Hold files while the block runs."""
        self.hold(*names)
        try:
            yield
        finally:
            self.release(*names)

    def demand(self, size: int) -> None:
        """Check that there is room for ``size`` more bytes.

        Raises:
            ProblemError: 507.
        """
        with self.lock:
            reserved = sum(self.reservations.values())
            held = sum(self.entries[name].size for name in self.holds if name in self.entries)
        if self.free is not None and self.free < size + reserved + RESERVE_BYTES:
            raise short_of_space(
                f"{_mb(self.free)} are free on the service's disk, and this needs {_mb(size)} beside "
                f"{_mb(reserved + RESERVE_BYTES)} that are reserved"
            )
        if held + reserved + size > self.max_bytes:
            raise short_of_space(
                f"the service keeps up to {_mb(self.max_bytes)}, of which {_mb(held + reserved)} are in use, and "
                f"this needs {_mb(size)}"
            )

    def reserve(self, sizes: Mapping[str, int], refuse: bool = True) -> None:
        """Reserve room for covers by item, until ``end_reservation``.

        Raises:
            ProblemError: 507, and nothing is reserved; never without ``refuse``.
        """
        with self.lock:
            if refuse:
                self.demand(sum(sizes.values()))
            self.reservations |= sizes

    def end_reservation(self, item_id: str) -> None:
        """Release the reservation of a cover that is written or given up."""
        with self.lock:
            self.reservations.pop(item_id, None)

    def evict(self) -> None:
        """Evict files beyond the limit, and those not used for ``keep_days``."""
        while self._remove_oldest():
            pass

    def discard(self, name: str) -> None:
        """Remove a file unless it is held."""
        with self.lock:
            found = name in self.entries and name not in self.holds
            entry = self._leave(name) if found else None
        if entry:
            self._drop(name, entry)

    def state(self) -> dict[str, Any]:
        with self.lock:
            reserved = sum(self.reservations.values())
        short = self.free is not None and self.free < reserved + RESERVE_BYTES
        return {
            "kept_bytes": self.kept,
            "most_bytes": round(self.max_bytes),
            "free_bytes": self.free,
            "files": len(self.entries),
            "short": short,
        }

    def _remove_oldest(self) -> bool:
        """Remove the first file to evict; returns whether one was removed."""
        with self.lock:
            too_much = self.kept + sum(self.reservations.values()) > self.max_bytes
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
        """Stop counting a file that is about to be removed."""
        entry = self.entries[name]
        self.forget(name)
        self.being_removed.add(name)
        return entry

    def _drop(self, name: str, entry: StoredFile) -> bool:
        # Without the lock: slow storage must not block requests and /health.
        removed = False
        try:
            self.remove(name)
            removed = True
        except OSError as error:
            log.warning("%s cannot be removed: %s", name, error)
        finally:
            with self.removal_ended:
                if removed:
                    self.forget(name)  # it may have been counted again meanwhile
                else:
                    self._put(name, entry)  # at the end, so that others can be evicted
                self.being_removed.discard(name)
                self.removal_ended.notify_all()
        return removed

    def _put(self, name: str, entry: StoredFile) -> None:
        self.forget(name)
        self.entries[name] = entry
        self.kept += entry.size


def _on_disk(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB"
