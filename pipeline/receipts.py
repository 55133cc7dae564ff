"""Receipts: the result row of each cover, left beside it at once, until the driver has written it with the others.

Ray runs a task again from its start when its worker dies, and a driver may die before it has written the rows it
was given; with a receipt no finished cover is made again.
"""

import logging
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipeline.results import SCHEMA, as_table
from pipeline.storage import Store

RECEIPTS = "receipts"
SUFFIX = ".arrow"
# Beside a worker's rows: the task they belong to, and whether a row is its last.
TASK, LAST = "task", "last_of_task"
THREADS = 16
log = logging.getLogger(__name__)


def leave(store: Store, row: dict[str, Any]) -> None:
    """Leave the receipt of a cover.

    Raises:
        OSError: it cannot be written; the cover may be made twice, which is better than not at all.
    """
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, SCHEMA) as writer:
        writer.write_table(as_table([row]))
    store.write(_name(row["track_id"], row["item_id"]), stream.getvalue())


def of_track(store: Store, track_id: str) -> dict[str, dict[str, Any]]:
    """The rows of a track's receipts, by item id."""
    names = store.files(f"{RECEIPTS}/{track_id}", SUFFIX)
    return {row["item_id"]: row for name in names for row in _read(store, name).to_pylist()}


def left_over(store: Store) -> pa.Table:
    """The rows of all receipts."""
    names = store.files(RECEIPTS, SUFFIX, deep=True)
    with ThreadPoolExecutor(THREADS) as pool:
        # A receipt of an earlier version may lack a column.
        tables = [as_table([]), *pool.map(lambda name: _read(store, name), names)]
    return pa.concat_tables(tables, promote_options="default").select(SCHEMA.names)


class Receipts:
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
                self.open[row[TASK]].append(_name(row["track_id"], row["item_id"]))
            if row[LAST]:
                self.closed += self.open.pop(row[TASK], [])

    def written(self) -> None:
        """All rows seen are safe: take the receipts of finished tasks back."""
        closed, self.closed = self.closed, []
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self.store.delete, closed))


def _read(store: Store, name: str) -> pa.Table:
    """A receipt's row; none where a machine that lost its power left half of it."""
    try:
        with pa.ipc.open_stream(store.read(name)) as reader:
            return reader.read_all()
    except pa.ArrowInvalid as error:
        log.warning("%s is no receipt (%s); its cover is made again", name, error)
        return as_table([])


def _name(track_id: str, item_id: str) -> str:
    return f"{RECEIPTS}/{track_id}/{item_id}{SUFFIX}"
