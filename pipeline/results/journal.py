"""Receipts: the result row of each cover, left beside it at once, until the driver has written it with the others.

Ray runs a task again from its start when its worker dies, and a driver may die before it has written the rows it
was given; with a receipt no finished cover is made again. A receipt is found by its item's id, and ends in the
CRC-32 of its bytes, which Arrow does not read.
"""

import logging
import zlib
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipeline.results.table import SCHEMA, as_table, without_passwords
from pipeline.storage.parquet_parts import conform_schema
from pipeline.storage.store import Store

RECEIPTS = "receipts"
SUFFIX = ".arrow"
# Beside a worker's rows: the task they belong to, and whether a row is its last.
TASK, LAST = "task", "last_of_task"
THREADS = 16
BATCH = 100  # receipts in memory at a time: one row in 75 columns takes 0.2 MB until it is among others
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
CHECKSUM_BYTES = 4
_SCHEMA_MESSAGE = SCHEMA.serialize().to_pybytes()
log = logging.getLogger(__name__)


def write_receipt(store: Store, row: dict[str, Any]) -> None:
    """Leave the receipt of a cover.

    Raises:
        OSError: it cannot be written; the cover may be made twice, which is better than not at all.
    """
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, SCHEMA) as writer:
        writer.write_table(without_passwords(as_table([row])))
    content = stream.getvalue().to_pybytes()
    store.write(receipt_name(row["track_id"], row["item_id"]), content + _checksum(content))


def receipt_name(track_id: str, item_id: str) -> str:
    """The name of an item's receipt."""
    return f"{RECEIPTS}/{track_id}/{item_id}{SUFFIX}"


def receipt_of(store: Store, track_id: str, item_id: str) -> dict[str, Any] | None:
    """The row of an item's receipt, None where there is none.

    Raises:
        OSError: it cannot be read.
    """
    found = _read(store, receipt_name(track_id, item_id))
    return None if found is None else found.to_pylist()[0]


def unwritten_receipts(store: Store) -> list[str]:
    """Names of all receipts."""
    return store.files(RECEIPTS, SUFFIX, deep=True)


def read_receipts(
    store: Store, names: Sequence[str], batch_size: int, known: Container[str] = ()
) -> Iterator[tuple[pa.Table, Sequence[str]]]:
    """The rows of those receipts that can be read, up to ``batch_size`` at a time, each with the names they came
    from.

    Args:
        known: ids of items whose receipts are passed over.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(names), batch_size):
            some = names[start : start + batch_size]
            unknown = [name for name in some if name.rpartition("/")[2].removesuffix(SUFFIX) not in known]
            tables = [as_table([])]
            for first in range(0, len(unknown), BATCH):
                found = pool.map(lambda name: _read(store, name), unknown[first : first + BATCH])
                tables.append(pa.concat_tables([as_table([]), *filter(None, found)]).combine_chunks())
            yield pa.concat_tables(tables), some


def delete_receipts(store: Store, names: Sequence[str]) -> None:
    """Remove receipts whose rows are written."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(store.delete, names))


class Journal:
    """The driver's side: which receipts may go.

    Those of a task stay until all of its rows are there, since it may have to run again.
    """

    def __init__(self, store: Store):
        self.store = store
        self.open: dict[str, list[str]] = defaultdict(list)
        self.closed: list[str] = []

    def seen(self, table: pa.Table) -> None:
        """Take note of a worker's rows, with their columns ``TASK`` and ``LAST``."""
        for row in table.select(["track_id", "item_id", "status", TASK, LAST]).to_pylist():
            if row["status"] == "ok":
                self.open[row[TASK]].append(receipt_name(row["track_id"], row["item_id"]))
            if row[LAST]:
                self.closed += self.open.pop(row[TASK], [])

    def written(self) -> None:
        """All rows seen are safe: take the receipts of finished tasks back."""
        closed, self.closed = self.closed, []
        delete_receipts(self.store, closed)


def _read(store: Store, name: str) -> pa.Table | None:
    """A receipt's row; None where there is none, a machine that lost its power left half of it, or it is another
    item's."""
    try:
        content = store.read(name)
    except FileNotFoundError:
        return None
    try:
        body, checksum = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
        # Receipts of earlier versions have no checksum.
        if checksum != _checksum(body) and not content.endswith(END_OF_STREAM):
            raise ValueError("its bytes do not match its checksum")
        if content.startswith(_SCHEMA_MESSAGE):  # to read and compare 75 fields takes longer than all else
            batch = pa.ipc.read_record_batch(pa.py_buffer(content).slice(len(_SCHEMA_MESSAGE)), SCHEMA)
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
