"""Receipts: the result row of each cover, left beside it at once, until the driver has written it with the others.

Ray runs a task again from its start when its worker dies, and a driver may die before it has written the rows it
was given; with a receipt no finished cover is made again.
"""

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipeline.results import SCHEMA, as_table
from pipeline.storage import Store

RECEIPTS = "receipts"
SUFFIX = ".arrow"
LAST = "last_of_track"
THREADS = 16


def leave(store: Store, row: dict[str, Any]) -> None:
    """Leave the receipt of a cover."""
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, SCHEMA) as writer:
        writer.write_table(as_table([row]))
    store.write(_name(row["track_id"], row["item_id"]), stream.getvalue())


def of_track(store: Store, track_id: str) -> dict[str, pa.Table]:
    """The rows of a track's receipts, by item id."""
    names = store.files(f"{RECEIPTS}/{track_id}", SUFFIX)
    return {name.rsplit("/", 1)[-1].removesuffix(SUFFIX): _read(store, name) for name in names}


def left_over(store: Store) -> Iterator[pa.Table]:
    """The rows of all receipts."""
    with ThreadPoolExecutor(THREADS) as pool:
        for rows in pool.map(lambda track: of_track(store, track), store.folders(RECEIPTS)):
            yield from rows.values()


class Receipts:
    """The driver's side: which receipts may go.

    A track's receipts stay until all of its items are there, since its task may have to run again.
    """

    def __init__(self, store: Store):
        self.store = store
        self.open: dict[str, list[str]] = defaultdict(list)
        self.closed: list[str] = []

    def seen(self, table: pa.Table) -> None:
        """Take note of result rows that came from a worker, with their column ``LAST``."""
        for row in table.select(["track_id", "item_id", LAST]).to_pylist():
            self.open[row["track_id"]].append(_name(row["track_id"], row["item_id"]))
            if row[LAST]:
                self.closed += self.open.pop(row["track_id"])

    def written(self) -> None:
        """All rows seen are safe: take the receipts of finished tracks back."""
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self.store.delete, self.closed))
        self.closed = []


def _read(store: Store, name: str) -> pa.Table:
    with pa.ipc.open_stream(store.read(name)) as reader:
        return reader.read_all()


def _name(track_id: str, item_id: str) -> str:
    return f"{RECEIPTS}/{track_id}/{item_id}{SUFFIX}"
