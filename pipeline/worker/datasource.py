"""A plan as a source of Ray Data. Imports no model: reading starts while the workers load theirs."""

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
    """Reads a plan in its order, one row for each task of a worker, until the flag is lowered.

    Ray's own Parquet reader makes one block of a small file, which keeps one worker busy and the others idle,
    and would go on to the end of the catalogue after a stop request. The one reading task is a few hundred blocks
    ahead of the workers, and no more, since Ray holds it back.
    """

    def __init__(self, store: Store, task_s: float, consumers: int, stop: StopFlag):
        super().__init__()
        self.store, self.task_s, self.consumers, self.stop = store, task_s, consumers, stop

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        nothing_known = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(self._read, nothing_known)]

    def _read(self) -> Iterator[pa.Table]:
        for rows in read_plan(self.store, self.task_s, self.consumers):
            if self.stop.lowered:
                return
            yield pa.table({TRACKS: [rows.to_pylist()]}, schema=TASK_SCHEMA)
