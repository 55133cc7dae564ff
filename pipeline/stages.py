"""The Ray Dataset: a plan streamed through a pool of workers."""

from collections.abc import Iterator

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from pipeline.actors import RestyleWorker, WorkerSpec
from pipeline.cluster import ClusterSpec, Pool, PoolError
from pipeline.storage import Store


def stream(plan: Store, name: str, worker: WorkerSpec, cluster: ClusterSpec, pool: Pool) -> Iterator[pa.Table]:
    """Run a plan file through the pool; yields result tables as workers finish tracks, in no fixed order.

    Raises:
        PoolError: the workers broke off.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    # A ten-minute track on a slow device may take longer than Ray's half hour without news.
    context.execution_no_progress_timeout_s = -1
    rows = ray.data.read_parquet(plan.path(name), filesystem=plan.filesystem)
    # Ray reads a small Parquet file as one block, which would keep one worker busy and the others idle.
    rows = rows.repartition(target_num_rows_per_block=cluster.tracks_per_task)
    results = rows.map_batches(
        RestyleWorker,
        fn_constructor_args=(worker,),
        batch_size=cluster.tracks_per_task,
        batch_format="pyarrow",
        # Without an explicit 0 each worker would hold a CPU, and on a full machine the reading task
        # could never start: a silent hang.
        num_cpus=0,
        num_gpus=pool.gpus_per_worker,
        compute=ActorPoolStrategy(
            size=pool.workers,
            max_tasks_in_flight_per_actor=cluster.calls_per_worker,
            max_concurrent_calls_per_actor=cluster.calls_per_worker,
            enable_true_multi_threading=True,
        ),
    )
    try:
        yield from results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except RayError as error:
        reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
        raise PoolError(f"the workers broke off: {reason.strip()}") from error
