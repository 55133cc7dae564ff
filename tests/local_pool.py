"""A pool of one worker in this process, for tests of jobs in which no cluster has a part."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pyarrow as pa
import torch

from pipeline.cluster.pool import Pool
from pipeline.cluster.spec import ClusterSpec
from pipeline.storage.store import Store
from pipeline.worker.datasource import PlanSource
from pipeline.worker.restyle_worker import RestyleWorker
from pipeline.worker.spec import WorkerSpec


class Flag:
    """The stop flag of a job, its driver and its worker in one process."""

    def __init__(self) -> None:
        self.why, self.requested = "", False

    def request(self, fault: str = "") -> None:
        self.why, self.requested = self.why or fault, True

    def fault(self) -> str:
        return self.why


def stream(
    plan: Store, spec: WorkerSpec, cluster: ClusterSpec, pool: Pool, stop: Flag, worker_class: type[RestyleWorker]
) -> Iterator[pa.Table]:
    """The rows of a plan, as the workers of a pool yield them."""
    worker = worker_class(spec, stop)  # type: ignore[arg-type]
    for read in PlanSource(plan, cluster.task_seconds, pool.most, stop).get_read_tasks(1):  # type: ignore[arg-type]
        for tracks in read():
            yield from worker(tracks)


@contextmanager
def local_pool() -> Iterator[None]:
    """Within the block, catalogue jobs start and join no cluster."""
    threads = torch.get_num_threads()
    pool = Pool(1, 1, 0.0, threads, "this process")
    instead = {
        "connect": lambda cluster: None,
        "size_pool": lambda cluster: pool,
        "StopFlag": Flag,
        "stream": stream,
        "read_deaths": list,
    }
    try:
        with patch.multiple("pipeline.workflows.restyle", **instead):
            yield
    finally:
        torch.set_num_threads(threads)
