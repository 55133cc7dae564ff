"""Result rows: the one schema, the rolling writer, and what a folder already holds."""

import io
import time
import uuid
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from acestep.setting import SETTING_TYPES
from pipeline.storage import Store

RESULTS, REJECTED = "results", "rejected"

_TEXT = ("item_id", "track_id", "status", "error_kind", "error_message", "source", "caption", "reference_audio")
_ARROW_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    bool: pa.bool_(),
    int: pa.int64(),
    int | None: pa.int64(),
    float: pa.float64(),
    tuple[float, ...] | None: pa.list_(pa.float64()),
}
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in _TEXT),
        # what the model read beside the caption, given or found by the language model
        ("language", pa.string()),
        ("bpm", pa.int32()),
        ("keyscale", pa.string()),
        ("timesignature", pa.string()),
        ("notes", pa.list_(pa.string())),
        # a cover made from another cover: its place in the chain, counted from 1, and what it was made from
        ("stage", pa.int32()),
        ("parent_item_id", pa.string()),
        ("preset", pa.string()),
        ("setting_id", pa.string()),
        ("setting_name", pa.string()),
        # as requested
        *((name, _ARROW_TYPES[kind]) for name, kind in SETTING_TYPES.items()),
        ("seed", pa.int64()),
        # as it really ran
        ("effective_guidance", pa.string()),
        ("effective_guidance_scale", pa.float64()),
        ("effective_inference_steps", pa.int32()),
        ("effective_shift", pa.float64()),
        ("cover_steps", pa.int32()),
        ("t_start", pa.float64()),
        ("t_switch", pa.float64()),
        ("evaluations", pa.int32()),
        # what came out: path relative to the output folder, samples per channel, Hz, seconds
        ("audio_path", pa.string()),
        ("audio_sha256", pa.string()),
        ("sample_rate", pa.int32()),
        ("frames", pa.int64()),
        ("duration_s", pa.float64()),
        ("source_duration_s", pa.float64()),
        # with what
        ("model", pa.string()),
        ("model_fingerprint", pa.string()),
        ("dtype", pa.string()),
        ("numerics_version", pa.int32()),
        # seconds of work; read_s and condition_s are an equal share of what the track's items have in common
        ("read_s", pa.float64()),
        ("condition_s", pa.float64()),
        ("denoise_s", pa.float64()),
        ("decode_s", pa.float64()),
        ("write_s", pa.float64()),
        ("attempt", pa.int32()),
        ("node", pa.string()),
        ("finished_at", pa.timestamp("ms", tz="UTC")),
    ]
)


def as_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Rows as a table of ``SCHEMA``; an absent column is null, an unknown one an error."""
    rows = list(rows)
    for row in rows:
        unknown = row.keys() - set(SCHEMA.names)
        if unknown:
            raise KeyError(f"not result columns: {sorted(unknown)}")
    return pa.Table.from_pylist(rows, schema=SCHEMA)


class ResultWriter:
    """Collects rows and writes them as Parquet parts, each complete or absent.

    A part is written after ``most_rows`` rows or ``most_seconds`` seconds, whichever comes first.
    """

    def __init__(self, store: Store, folder: str, most_rows: int = 1000, most_seconds: float = 30.0):
        self.store, self.folder = store, folder
        self.most_rows, self.most_seconds = most_rows, most_seconds
        self.waiting: list[pa.Table] = []
        self.last_write = time.monotonic()
        self.launch = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
        self.parts = 0

    def add(self, table: pa.Table) -> None:
        """Take rows; they are safe once ``flush`` has run."""
        self.waiting.append(table)
        waited = time.monotonic() - self.last_write
        if sum(map(len, self.waiting)) >= self.most_rows or waited >= self.most_seconds:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        table = pa.concat_tables(self.waiting) if self.waiting else None
        if table is not None and len(table):
            buffer = io.BytesIO()
            pq.write_table(table, buffer, compression="zstd")
            self.store.write(f"{self.folder}/part-{self.launch}-{self.parts:05d}.parquet", buffer.getvalue())
            self.parts += 1
        self.waiting = []
        self.last_write = time.monotonic()


def read_results(store: Store, *folders: str) -> pa.Table:
    """Every row of the parts in ``folders`` (``results`` alone by default), oldest launch first."""
    parts = [name for folder in folders or (RESULTS,) for name in store.files(folder, ".parquet")]
    parts.sort(key=lambda name: name.rsplit("/", 1)[-1])  # parts are named by launch time, in every folder
    tables = [pq.read_table(store.path(name), filesystem=store.filesystem) for name in parts]
    return pa.concat_tables([SCHEMA.empty_table(), *tables])


def current_rows(store: Store, items: set[str] | None = None) -> pa.Table:
    """One row of each item, restricted to ``items``: the one that is ok, else the newest.

    An item that failed and was retried has an older row too, which stays as history.
    """
    table = read_results(store, RESULTS, REJECTED)
    best: dict[str, tuple[int, bool]] = {}
    for index, (item, status) in enumerate(
        zip(*(table[n].to_pylist() for n in ("item_id", "status")), strict=True)
    ):
        known_ok = item in best and best[item][1]
        if (items is None or item in items) and not known_ok:
            best[item] = (index, status == "ok")
    return table.take(pa.array(sorted(index for index, _ in best.values()), pa.int64()))


def finished_items(store: Store, retry_failed: bool = False) -> set[str]:
    """Ids of the items that have a final row: all, or (``retry_failed``) only those that are ok."""
    rows = current_rows(store)
    if retry_failed:
        rows = rows.filter(pc.equal(rows["status"], "ok"))
    return set(rows["item_id"].to_pylist())
