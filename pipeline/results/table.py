"""Result rows: the Parquet writer, and queries of a folder's rows."""

import hashlib
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from acestep.redaction import redacted, redacted_values
from acestep.sampling.setting import PARAMETERS
from pipeline.results.columns import SCHEMA
from pipeline.storage.parquet_parts import PartFormat, part_names, read_part, read_parts, replace_part, write_part
from pipeline.storage.store import Store
from pipeline.storage.transient_errors import TRANSIENT_KINDS

RESULTS, REJECTED = "results", "rejected"

ROWS = PartFormat(SCHEMA, ("item_id", "track_id", "status"))


_PLACES = ("source", "reference_audio", "audio_path")
_WORDS = ("error_message", "notes", "unmeasured", "caption", *(n for n, p in PARAMETERS.items() if p.kind is str))


def file_columns(path: str, content: bytes, frames: int, rate: int) -> dict[str, Any]:
    """The result columns of a cover's audio file.

    Args:
        path: below the output folder.
        frames: samples of a channel, at ``rate`` Hz.
    """
    return {
        "audio_path": path,
        "audio_sha256": hashlib.sha256(content).hexdigest(),
        "audio_bytes": len(content),
        "sample_rate": rate,
        "frames": frames,
        "duration_s": frames / rate,
    }


def as_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Rows as a table of ``SCHEMA``; an absent column is null, an unknown one raises KeyError."""
    rows = list(rows)
    for row in rows:
        unknown = row.keys() - set(SCHEMA.names)
        if unknown:
            raise KeyError(f"not result columns: {sorted(unknown)}")
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def without_passwords(table: pa.Table) -> pa.Table:
    """Rows with the passwords of URIs removed from paths and messages."""

    def hide(name: str, value: Any) -> Any:
        return redacted(value) if value and name in _PLACES else redacted_values(value)

    for place, name in enumerate(table.column_names):
        column = table[name]
        if name not in (*_PLACES, *_WORDS):
            continue
        texts = pc.list_flatten(column) if pa.types.is_list(column.type) else column
        if pc.any(pc.match_substring_regex(texts, "://|[?&]")).as_py():
            hidden = pa.array([hide(name, value) for value in column.to_pylist()], column.type)
            table = table.set_column(place, table.schema.field(name), hidden)
    return table


class ResultWriter:
    """Buffers rows and writes them as Parquet parts, each atomically.

    A part is written after ``max_rows`` rows or ``max_seconds`` seconds, whichever comes first.
    """

    def __init__(self, store: Store, folder: str, max_rows: int = 1000, max_seconds: float = 30.0):
        self.store, self.folder = store, folder
        self.max_rows, self.max_seconds = max_rows, max_seconds
        self.waiting: list[pa.Table] = []
        self.rows = 0
        self.last_write = time.monotonic()
        # In microseconds: rows of newer parts win, and short launches follow each other within a second.
        self.launch = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:6]}"
        self.parts = 0

    def add(self, table: pa.Table) -> bool:
        """Buffer rows; returns whether all buffered rows are now written."""
        self.waiting.append(without_passwords(table))
        self.rows += len(table)
        due = self.rows >= self.max_rows or time.monotonic() - self.last_write >= self.max_seconds
        if due:
            self.flush()
        return due

    def flush(self) -> None:
        """Write the buffered rows."""
        table = pa.concat_tables(self.waiting) if self.waiting else None
        if table is not None and len(table):
            write_part(self.store, self.folder, self.launch, self.parts, table)
            self.parts += 1
        self.waiting, self.rows = [], 0
        self.last_write = time.monotonic()


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


def finished_items(store: Store, retry_failed: bool = False) -> set[str]:
    """Ids of items that are ok and, unless ``retry_failed``, of those whose newest row is a permanent failure."""
    rows = read_results(store, RESULTS, REJECTED, columns=("item_id", "status", "error_kind"))
    ok = pc.equal(rows["status"], "ok")
    finished = set(rows["item_id"].filter(ok).to_pylist())
    if not retry_failed:
        failed = rows.filter(pc.invert(ok))
        newest = dict(zip(failed["item_id"].to_pylist(), failed["error_kind"].to_pylist(), strict=True))
        finished |= {item_id for item_id, kind in newest.items() if kind not in TRANSIENT_KINDS}
    return finished


def made_tracks(store: Store) -> set[str]:
    """Ids of the tracks with finished covers in a folder."""
    return _unique_of_ok(store, "track_id")


def changed_sources(store: Store) -> set[str]:
    """Sources and references whose content had changed when a worker read them."""
    found: set[str] = set()
    columns = ("source", "reference_audio")
    for _, rows in each_part(store, RESULTS, ("error_kind", *columns)):
        changed = rows.filter(pc.equal(rows["error_kind"], "source_changed"))
        found.update(*(changed[name].drop_null().to_pylist() for name in columns))
    return found


def made_with(store: Store) -> set[str]:
    """Fingerprints of the models that made a folder's covers."""
    return _unique_of_ok(store, "model_fingerprint")


def _unique_of_ok(store: Store, column: str) -> set[str]:
    rows = read_results(store, RESULTS, columns=(column, "status"))
    return set(pc.unique(rows.filter(pc.equal(rows["status"], "ok"))[column]).drop_null().to_pylist())
