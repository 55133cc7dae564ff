"""Write-ahead journal of result rows: one receipt per finished cover, until the driver has written its row.

When a worker dies, Ray runs its task again from the start; a driver may die before it writes the rows that it
received. Receipts make both cheap: no finished cover is made again. A receipt is an Arrow stream, named by track
and item, followed by the CRC-32 of its bytes, which Arrow readers ignore.
"""

import logging
import zlib
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipeline.results.columns import SCHEMA
from pipeline.results.writer import as_table, without_passwords
from pipeline.storage.parquet_parts import conform_schema
from pipeline.storage.store import Store

RECEIPTS = "receipts"
SUFFIX = ".arrow"
# Columns that a worker adds to its rows: their task, and whether a row is the task's last.
TASK, LAST = "task", "last_of_task"
THREADS = 16
BATCH = 100  # receipts in memory at a time: a table of one row takes 0.2 MB in 75 columns
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
CHECKSUM_BYTES = 4
# Without metadata, which would be the larger part of a receipt.
_BARE = pa.schema([field.remove_metadata() for field in SCHEMA])
_SCHEMA_MESSAGE = _BARE.serialize().to_pybytes()
log = logging.getLogger(__name__)


def write_receipt(store: Store, row: dict[str, Any]) -> None:
    """Write the receipt of a cover.

    Raises:
        OSError: the receipt cannot be written; the cover is kept, and made again if its row gets lost.
    """
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, _BARE) as writer:
        writer.write_table(without_passwords(as_table([row])))
    content = stream.getvalue().to_pybytes()
    store.write(receipt_name(row["track_id"], row["item_id"]), content + _checksum(content))


def receipt_name(track_id: str, item_id: str) -> str:
    """Path of an item's receipt below the output folder."""
    return f"{RECEIPTS}/{track_id}/{item_id}{SUFFIX}"


def receipt_of(store: Store, track_id: str, item_id: str) -> dict[str, Any] | None:
    """The row in an item's receipt; None without a valid receipt.

    Raises:
        OSError: the receipt cannot be read.
    """
    found = _read(store, receipt_name(track_id, item_id))
    return None if found is None else found.to_pylist()[0]


def unwritten_receipts(store: Store) -> list[str]:
    """Paths of all receipts."""
    return store.files(RECEIPTS, SUFFIX, deep=True)


def read_receipts(
    store: Store, names: Sequence[str], batch_size: int, known: Container[str] = ()
) -> Iterator[tuple[pa.Table, Sequence[str]]]:
    """Read receipts: rows of up to ``batch_size`` receipts at a time, with the names of the receipts.

    Invalid receipts contribute no row.

    Args:
        known: ids of items whose receipts are not read.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(names), batch_size):
            batch = names[start : start + batch_size]
            unknown = [name for name in batch if name.rpartition("/")[2].removesuffix(SUFFIX) not in known]
            tables = [as_table([])]
            for first in range(0, len(unknown), BATCH):
                found = pool.map(lambda name: _read(store, name), unknown[first : first + BATCH])
                tables.append(pa.concat_tables([as_table([]), *filter(None, found)]).combine_chunks())
            yield pa.concat_tables(tables), batch


def delete_receipts(store: Store, names: Sequence[str]) -> None:
    """Delete receipts whose rows are written."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(store.delete, names))


class Journal:
    """The driver's side of the journal: tracks which receipts can be deleted.

    The receipts of a task stay until all of its rows have arrived, since the task may run again.
    """

    def __init__(self, store: Store):
        self.store = store
        self.open: dict[str, list[str]] = defaultdict(list)
        self.closed: list[str] = []

    def seen(self, table: pa.Table) -> None:
        """Record a worker's rows, with their columns ``TASK`` and ``LAST``."""
        for row in table.select(["track_id", "item_id", "status", TASK, LAST]).to_pylist():
            if row["status"] == "ok":
                self.open[row[TASK]].append(receipt_name(row["track_id"], row["item_id"]))
            if row[LAST]:
                self.closed += self.open.pop(row[TASK], [])

    def written(self) -> None:
        """All recorded rows are written: delete the receipts of finished tasks."""
        closed, self.closed = self.closed, []
        delete_receipts(self.store, closed)


def _read(store: Store, name: str) -> pa.Table | None:
    """A receipt's row; None where the file is missing, truncated by a power loss, or another item's."""
    try:
        content = store.read(name)
    except FileNotFoundError:
        return None
    try:
        body, checksum = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
        # Receipts of earlier versions have no checksum.
        if checksum != _checksum(body) and not content.endswith(END_OF_STREAM):
            raise ValueError("its bytes do not match its checksum")
        if content.startswith(_SCHEMA_MESSAGE):  # parsing and comparing 75 fields dominates the time otherwise
            batch = pa.ipc.read_record_batch(pa.py_buffer(content).slice(len(_SCHEMA_MESSAGE)), _BARE)
            found = pa.Table.from_batches([batch])
        else:
            with pa.ipc.open_stream(content) as reader:
                found = reader.read_all()
        found.validate(full=True)
        (item,) = found.select(["track_id", "item_id"]).to_pylist()
        if name != receipt_name(**item):
            raise ValueError(f"it is the receipt of {item['item_id']}")
        return conform_schema(found, SCHEMA)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        log.warning("%s is no receipt (%s); its cover is made again", name, error)
        return None


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "little")
