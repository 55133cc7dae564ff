"""The plan as a Ray Data Datasource. Imports no model: reading starts while the workers load theirs."""

from collections.abc import Iterator

import pyarrow as pa
from ray.data import DataContext
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from pipeline.cluster.shutdown import StopFlag
from pipeline.planning.plan_file import read_plan
from pipeline.planning.schema import TASK_SCHEMA, TRACKS
from pipeline.storage.store import Store


class PlanSource(Datasource):
    """Reads a plan in order, one row per task, until a stop request.

    Ray's Parquet reader would make one block of a small file, which keeps one worker busy and the others idle, and
    would not stop. The one read task is at most a few hundred blocks ahead, limited by Ray's backpressure.
    """

    def __init__(self, store: Store, task_s: float, consumers: int, stop: StopFlag):
        super().__init__()
        self.store, self.task_s, self.consumers, self.stop = store, task_s, consumers, stop

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(self._read, unknown)]

    def _read(self) -> Iterator[pa.Table]:
        for rows in read_plan(self.store, self.task_s, self.consumers):
            if self.stop.requested:
                return
            yield pa.table({TRACKS: [rows.to_pylist()]}, schema=TASK_SCHEMA)
