"""The plan on disk: sorted by work, the longest first, and read back in tasks."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from acestep.constants import MIN_WORK_S
from pipeline.planning.schema import PLAN_SCHEMA
from pipeline.storage.store import Store

PLAN_FILE = "plan.parquet"
MAX_BYTES = 128 << 20
GROUP_ROWS = 512


class PlanWriter:
    """Sorts rows of ``PLAN_SCHEMA`` by their work and writes them as one file.

    With the longest first, no worker starts a ten-minute track when the others are already done. Beyond
    ``max_bytes`` of memory rows are spilled to disk, and sorted to within a factor of two.
    """

    def __init__(self, max_bytes: int = MAX_BYTES):
        self.max_bytes = max_bytes
        self.waiting: dict[int, list[pa.Table]] = defaultdict(list)
        self.spilled: dict[int, list[Path]] = defaultdict(list)
        self.bytes = 0
        self.folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> "PlanWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.folder.cleanup()

    def add(self, rows: pa.Table) -> None:
        octaves = pc.floor(pc.log2(work(rows)))
        for octave in pc.unique(octaves).to_pylist():
            self.waiting[int(octave)].append(rows.filter(pc.equal(octaves, octave)))
        self.bytes += rows.nbytes
        if self.bytes > self.max_bytes:
            for octave, tables in self.waiting.items():
                part = Path(self.folder.name) / f"{octave}-{len(self.spilled[octave])}.parquet"
                pq.write_table(_sorted(tables), part, compression="zstd")
                self.spilled[octave].append(part)
            self.waiting.clear()
            self.bytes = 0

    def write(self, store: Store) -> None:
        """Write the file into an output folder, and empty the writer."""
        whole = Path(self.folder.name) / PLAN_FILE
        with pq.ParquetWriter(whole, PLAN_SCHEMA, compression="zstd") as file:
            for octave in sorted({*self.waiting, *self.spilled}, reverse=True):
                for part in self.spilled[octave]:
                    file.write_table(pq.read_table(part), GROUP_ROWS)
                file.write_table(_sorted(self.waiting.pop(octave, [])), GROUP_ROWS)
        with pa.memory_map(str(whole)) as mapped:
            store.write(PLAN_FILE, mapped.read_buffer())


def work(rows: pa.Table) -> pa.ChunkedArray:
    """Work of each row: seconds of source audio times items."""
    seconds = pc.max_element_wise(pc.fill_null(rows["source_duration_s"], 0.0), MIN_WORK_S)
    return pc.multiply(seconds, pc.cast(pc.list_value_length(rows["items"]), pa.float64()))


def read_plan(store: Store, task_s: float, consumers: int) -> Iterator[pa.Table]:
    """Read a plan in order, in tasks of one row, or of several short ones up to ``task_s`` seconds of work.

    Tasks get smaller towards the end, which keeps all ``consumers`` busy to the end. Memory holds the compressed
    file and one row group.
    """
    # Read whole and at once: no connection to object storage lasts as long as a job.
    with pq.ParquetFile(pa.BufferReader(store.read(PLAN_FILE))) as file:
        left = file.metadata.num_rows
        for batch in file.iter_batches(GROUP_ROWS):
            rows = pa.Table.from_batches([batch])
            start, taken_s = 0, 0.0
            for end, row_s in enumerate(work(rows).to_pylist()):
                if end > start and (taken_s + row_s > task_s or end - start >= (left - start) // (4 * consumers)):
                    yield _copied(rows, start, end)
                    start, taken_s = end, 0.0
                taken_s += row_s
            yield _copied(rows, start, len(rows))
            left -= len(rows)


def _copied(rows: pa.Table, start: int, end: int) -> pa.Table:
    """A copy of some rows; a slice would be sent with the whole batch behind it."""
    return rows.take(pa.array(range(start, end)))


def _sorted(tables: list[pa.Table]) -> pa.Table:
    table = pa.concat_tables([PLAN_SCHEMA.empty_table(), *tables])
    return table.take(pc.sort_indices(pa.table({"work": work(table)}), [("work", "descending")]))
