"""The Ray Dataset: streams a plan through a pool of workers."""

from collections.abc import Iterator

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.exceptions import GetTimeoutError, RayError

from pipeline.cluster.errors import PoolError
from pipeline.cluster.native_lines import drop_known_lines
from pipeline.cluster.pool import Pool, explain_unplaced
from pipeline.cluster.shutdown import StopFlag
from pipeline.cluster.spec import ClusterSpec
from pipeline.storage.store import Store
from pipeline.worker.datasource import PlanSource
from pipeline.worker.restyle_worker import RestyleWorker
from pipeline.worker.spec import WorkerSpec


def stream(
    plan: Store,
    worker: WorkerSpec,
    cluster: ClusterSpec,
    pool: Pool,
    stop: StopFlag,
    worker_class: type[RestyleWorker] = RestyleWorker,
) -> Iterator[pa.Table]:
    """Run a plan through the pool; yields result rows as they are made, in no fixed order.

    Raises:
        PoolError: the workers could not start, or failed.
    """
    with DataContext.current(_settings(cluster)):
        results = _dataset(plan, worker, cluster, pool, stop, worker_class)
    try:
        tables = iter(results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
        with drop_known_lines():  # workers start before the first table arrives
            first = next(tables, None)
        if first is not None:
            yield first
            yield from tables
    except GetTimeoutError as error:
        raise explain_unplaced(cluster, pool) from error
    except RayError as error:
        reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
        raise PoolError("cluster_failed", f"the workers broke off: {reason.strip()}") from error


def _settings(cluster: ClusterSpec) -> DataContext:
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.wait_for_min_actors_s = int(cluster.start_timeout_s)
    # Emit every block at once: a row reaches the driver when its cover is written, not at the end of its task.
    context.target_max_block_size = 1
    return context


def _dataset(
    plan: Store,
    worker: WorkerSpec,
    cluster: ClusterSpec,
    pool: Pool,
    stop: StopFlag,
    worker_class: type[RestyleWorker],
) -> Dataset:
    grows = pool.most > pool.workers
    # One block, else Ray makes the read task split each of its blocks into 200.
    source = PlanSource(plan, cluster.task_seconds, pool.most, stop)
    return ray.data.read_datasource(source, num_cpus=0, override_num_blocks=1).map_batches(
        worker_class,
        fn_constructor_args=(worker, stop),
        batch_size=1,
        batch_format="pyarrow",
        # With Ray's default each worker would hold a CPU, and on a full machine the read task would never start.
        num_cpus=0,
        num_gpus=pool.gpus_per_worker,
        resources=dict(cluster.resources) or None,
        compute=ActorPoolStrategy(
            min_size=pool.workers,
            max_size=pool.most,
            # Tasks queued at one worker are not available to others at the end; but Ray scales up only on queues.
            max_tasks_in_flight_per_actor=cluster.calls_per_worker * (2 if grows else 1),
            max_concurrent_calls_per_actor=cluster.calls_per_worker,
            enable_true_multi_threading=True,
        ),
    )
