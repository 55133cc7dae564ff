"""Index of a service's result rows: found by item, moved from receipts into parts, dropped with their covers."""

import logging
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.journal import delete_receipts, read_receipts, receipt_name, receipt_of, unwritten_receipts
from pipeline.results.reader import RESULTS, ROWS
from pipeline.results.writer import ResultWriter
from pipeline.storage.parquet_parts import PartError, part_names, read_part, replace_part, write_part
from pipeline.storage.store import Store

PART_ROWS = 1_000  # receipts that become a part, and rows of removed covers that trigger a rewrite of parts
# Track ids of requests are digest prefixes; other tracks belong to a catalogue job and are left alone.
OURS = "^[0-9a-f]{20}$"
KEYS = ("item_id", "track_id", "status", "audio_path")
log = logging.getLogger(__name__)


class RowIndex:
    """The part that holds the newest row of each cover. Methods are thread-safe.

    Args:
        audio: existing audio files; rows of others are dropped.
    """

    def __init__(self, store: Store, audio: Collection[str]):
        self.store = store
        self.launch, self.parts = ResultWriter(store, RESULTS).launch, 0
        self.part_of: dict[str, str] = {}
        self.stale: Counter[str] = Counter()  # rows without a cover, by part
        self.lock = threading.RLock()
        for part in part_names(store, RESULTS):
            rows = read_part(store, part, ROWS, KEYS)
            self._point(part, rows.filter(_ours(rows)), audio)
        self.write_anew()

    def find(self, track_id: str, item_id: str) -> dict[str, Any] | None:
        """The row of a cover, or None."""
        row = receipt_of(self.store, track_id, item_id)
        if row is not None:
            return row
        with self.lock:
            part = self.part_of.get(item_id)
            if part is None:
                return None
            rows = read_part(self.store, part, ROWS)
        found = rows.filter(pc.and_(pc.equal(rows["item_id"], item_id), _ours(rows))).to_pylist()
        return found[-1] if found else None

    def drop(self, track_id: str, item_id: str) -> None:
        """Drop the row of a removed cover."""
        self.store.delete(receipt_name(track_id, item_id))
        self._outdate(item_id)

    def fold(self) -> Iterator[pa.Table]:
        """Write the workers' receipts as parts; yields the rows of each part before its receipts are deleted."""
        for rows, names in read_receipts(self.store, unwritten_receipts(self.store), PART_ROWS):
            if len(rows):
                part = write_part(self.store, RESULTS, self.launch, self.parts, rows)
                self.parts += 1
                self._point(part, rows)
                yield rows
            delete_receipts(self.store, names)

    def write_anew(self, min_rows: int = 1) -> None:
        """Rewrite parts without the rows of removed covers, if there are at least ``min_rows`` of these."""
        if self.stale.total() < min_rows:
            return
        for part in list(self.stale):
            with self.lock:
                try:
                    rows = read_part(self.store, part, ROWS)
                except PartError as error:  # a restart reports it too
                    log.warning("%s", error)
                    del self.stale[part]
                    continue
                current = [self.part_of.get(item_id) == part for item_id in rows["item_id"].to_pylist()]
                kept = rows.filter(pc.or_(pc.invert(_ours(rows)), pa.array(current, pa.bool_())))
                new = replace_part(self.store, part, kept)
                if new:
                    self._point(new, kept.filter(_ours(kept)))
                del self.stale[part]

    def _point(self, part: str, rows: pa.Table, audio: Collection[str] | None = None) -> None:
        with self.lock:
            for item_id, path in zip(rows["item_id"].to_pylist(), rows["audio_path"].to_pylist(), strict=True):
                self._outdate(item_id)
                if audio is None or path in audio:
                    self.part_of[item_id] = part
                else:
                    self.stale[part] += 1

    def _outdate(self, item_id: str) -> None:
        with self.lock:
            part = self.part_of.pop(item_id, None)
            if part is not None:
                self.stale[part] += 1


def _ours(rows: pa.Table) -> pa.Array:
    """A mask of the rows that are covers of requests."""
    return pc.and_(pc.equal(rows["status"], "ok"), pc.match_substring_regex(rows["track_id"], OURS))
