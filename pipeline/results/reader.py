"""Reads the result rows of a folder: all of them, or the current row of each item."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.columns import SCHEMA
from pipeline.storage.parquet_parts import PartFormat, part_names, read_part, read_parts, replace_part
from pipeline.storage.store import Store

RESULTS, REJECTED = "results", "rejected"

ROWS = PartFormat(SCHEMA, ("item_id", "track_id", "status"))


def read_results(store: Store, *folders: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of the parts in ``folders`` (``results`` alone by default), oldest launch first.

    Args:
        columns: to read; None reads all.

    Raises:
        PartError: a part is damaged, or a file is not a part.
    """
    schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])
    parts = [name for folder in folders or (RESULTS,) for name in part_names(store, folder)]
    parts.sort(key=lambda name: name.rsplit("/", 1)[-1])  # parts are named by launch time, in every folder
    return pa.concat_tables([schema.empty_table(), *read_parts(store, parts, ROWS, columns)])


def each_part(store: Store, folder: str, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """Name and rows of each part of a folder, oldest launch first; raises like ``read_results``."""
    names = part_names(store, folder)
    return zip(names, read_parts(store, names, ROWS, columns), strict=True)


def keep_rows(store: Store, name: str, kept: pa.ChunkedArray) -> None:
    """Write a part again with the rows that a mask selects."""
    replace_part(store, name, read_part(store, name, ROWS).filter(kept))


def current_rows(store: Store, items: set[str] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """One row of each item, restricted to ``items``: its newest ok row, else its newest row.

    Older rows of items that failed and were retried stay in the folder as history.
    """
    keys = read_results(store, RESULTS, REJECTED, columns=("item_id", "status"))
    index = pa.array(range(len(keys)), pa.int64())
    ok_index = pc.if_else(pc.equal(keys["status"], "ok"), index, pa.scalar(None, pa.int64()))
    indexed = pa.table({"item_id": keys["item_id"], "index": index, "ok_index": ok_index})
    if items is not None:
        indexed = indexed.filter(pc.is_in(keys["item_id"], value_set=pa.array(items, pa.string())))
    newest = indexed.group_by("item_id").aggregate([("index", "max"), ("ok_index", "max")])
    del keys, indexed  # before the whole rows are read
    chosen = pc.coalesce(newest["ok_index_max"], newest["index_max"])
    return read_results(store, RESULTS, REJECTED, columns=columns).take(chosen.combine_chunks().sort())


def newest_of_each(rows: pa.Table) -> pa.Table:
    """Only the newest cover of each track, setting and seed.

    Covers that an earlier launch made with another caption, source or model are dropped. Covers without a seed,
    which are external, all stay.
    """
    repeated = pc.and_(pc.is_valid(rows["setting_id"]), pc.is_valid(rows["seed"]))
    keys = ["track_id", "setting_id", "seed"]
    placed = rows.select(keys).append_column("place", pa.array(range(len(rows)), pa.int64()))
    newest = placed.filter(repeated).group_by(keys).aggregate([("place", "max")])["place_max"]
    others = placed.filter(pc.invert(repeated))["place"]
    return rows.take(pa.array(sorted([*newest.to_pylist(), *others.to_pylist()]), pa.int64()))
