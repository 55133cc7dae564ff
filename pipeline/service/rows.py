"""Result rows of a service: found by item, moved from receipts into parts, dropped with their covers."""

import io
import logging
import re
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.receipts import RECEIPTS, SUFFIX, _name, _read
from pipeline.results import RESULTS, SCHEMA, ResultWriter
from pipeline.storage import Store

PART_ROWS = 1_000  # so many receipts become a part, and so many rows of removed covers make parts be written anew
# The track ids of orders are the beginning of a digest; other tracks are a catalogue's, and are left alone.
OURS = "^[0-9a-f]{20}$"
KEYS = ("item_id", "track_id", "status", "audio_path")
_PART = re.compile(r"part-(.+)-(\d{5,})(?:-[0-9a-f]{8})?\.parquet")
log = logging.getLogger(__name__)


class Rows:
    """Which part holds the newest row of each cover. Its methods may be called from any thread.

    Args:
        audio: the files that are there; rows of others are dropped.
    """

    def __init__(self, store: Store, audio: Collection[str]):
        self.store = store
        self.launch, self.parts = ResultWriter(store, RESULTS).launch, 0
        self.part_of: dict[str, str] = {}
        self.stale: Counter[str] = Counter()  # rows by part that are no cover's any more
        self.lock = threading.RLock()
        for part in store.files(RESULTS, ".parquet"):
            rows = _read_part(store, part, KEYS)
            self._point(part, rows.filter(_ours(rows)), audio)
        self.write_anew()

    def find(self, track_id: str, item_id: str) -> dict[str, Any] | None:
        """The row of a cover, else None."""
        row = _receipt(self.store, track_id, item_id)
        if row is not None:
            return row
        with self.lock:
            part = self.part_of.get(item_id)
            if part is None:
                return None
            rows = _read_part(self.store, part)
        found = rows.filter(pc.and_(pc.equal(rows["item_id"], item_id), _ours(rows))).to_pylist()
        return found[-1] if found else None

    def drop(self, track_id: str, item_id: str) -> None:
        """A cover is gone, and its row with it."""
        self.store.delete(_name(track_id, item_id))
        self._outdate(item_id)

    def fold(self) -> Iterator[pa.Table]:
        """Write the receipts that workers left as parts; yields the rows of each, before its receipts go."""
        names = self.store.files(RECEIPTS, SUFFIX, deep=True)
        for start in range(0, len(names), PART_ROWS):
            batch = names[start : start + PART_ROWS]
            rows = pa.concat_tables(
                [SCHEMA.empty_table(), *(_read(self.store, name) for name in batch)], promote_options="default"
            ).select(SCHEMA.names)
            if len(rows):
                part = _write_part(self.store, self.launch, self.parts, rows)
                self.parts += 1
                self._point(part, rows)
                yield rows
            for name in batch:
                self.store.delete(name)

    def write_anew(self, least: int = 1) -> None:
        """Drop the rows of removed covers from their parts, where there are so many."""
        if self.stale.total() < least:
            return
        for part in list(self.stale):
            with self.lock:
                rows = _read_part(self.store, part)
                current = [self.part_of.get(item_id) == part for item_id in rows["item_id"].to_pylist()]
                kept = rows.filter(pc.or_(pc.invert(_ours(rows)), pa.array(current, pa.bool_())))
                named = _PART.fullmatch(part.rpartition("/")[2])
                if len(kept) and named:
                    new = _write_part(self.store, named[1], int(named[2]), kept)
                    self._point(new, kept.filter(_ours(kept)))
                    if new == part:
                        del self.stale[part]
                        continue
                if named:
                    self.store.delete(part)
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
    """Which rows are covers of orders."""
    return pc.and_(pc.equal(rows["status"], "ok"), pc.match_substring_regex(rows["track_id"], OURS))


def _receipt(store: Store, track_id: str, item_id: str) -> dict[str, Any] | None:
    name = _name(track_id, item_id)
    found = _read(store, name).to_pylist() if store.exists(name) else []
    return found[0] if found else None


def _read_part(store: Store, part: str, columns: Sequence[str] | None = None) -> pa.Table:
    names = columns or SCHEMA.names
    schema = pa.schema([SCHEMA.field(name) for name in names])
    return pq.read_table(pa.BufferReader(store.read(part)), columns=list(names), schema=schema).cast(schema)


def _write_part(store: Store, launch: str, number: int, rows: pa.Table) -> str:
    part, buffer = f"{RESULTS}/part-{launch}-{number:05d}.parquet", io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    store.write(part, buffer.getvalue())
    return part
