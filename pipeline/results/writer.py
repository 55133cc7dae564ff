"""Result rows as tables, and their writer: Parquet parts in the output folder."""

import hashlib
import time
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from acestep.redaction import redacted, redacted_values
from acestep.sampling.setting import PARAMETERS
from pipeline.results.columns import SCHEMA
from pipeline.storage.parquet_parts import write_part
from pipeline.storage.store import Store

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
