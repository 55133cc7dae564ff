"""Size of the worker pool, and checks of the values that determine it."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor
from pathlib import Path

import ray

from acestep.errors import RequestError
from pipeline.cluster.address import LOCAL, local_cluster_address, resolve_address
from pipeline.cluster.errors import PoolError
from pipeline.cluster.runtime_env import inside_ray_job
from pipeline.cluster.spec import ClusterSpec


@dataclass(frozen=True)
class Pool:
    """Size of the worker pool.

    workers, most: initial and maximal number of workers.
    threads: torch CPU threads per worker; None keeps torch's default.
    cluster: description of the cluster for messages.
    """

    workers: int
    most: int
    gpus_per_worker: float
    threads: int | None
    cluster: str


def check(cluster: ClusterSpec) -> None:
    """Validate values that do not depend on the cluster.

    Raises:
        RequestError: a value is out of range.
    """
    lowest_allowed: dict[str, tuple[float | None, float]] = {
        "cpus": (cluster.cpus, 1),
        "gpus": (cluster.gpus, 0),
        "workers": (cluster.workers, 1),
        "max_workers": (cluster.max_workers, cluster.workers or 1),
        "threads_per_worker": (cluster.threads_per_worker, 1),
        "gpus_per_worker": (cluster.gpus_per_worker, 0),
        "calls_per_worker": (cluster.calls_per_worker, 1),
        "task_seconds": (cluster.task_seconds, 0),
        "start_timeout_s": (cluster.start_timeout_s, 1),
        "stall_timeout_s": (cluster.stall_timeout_s, 1),
        "stop_timeout_s": (cluster.stop_timeout_s, 0),
    }
    for name, (value, lowest) in lowest_allowed.items():
        if value is not None and value < lowest:
            raise RequestError(
                "out_of_range", f"may not be below {lowest:g}", field=f"cluster.{name}", value=value
            )
    share = cluster.gpus_per_worker or 0.0
    if share > 1 and share != int(share):
        reason = "is not possible: Ray gives whole GPUs, or a part of one"
        raise RequestError("no_resources", reason, field="cluster.gpus_per_worker", value=share)
    if not isinstance(cluster.resources, Mapping):
        raise RequestError(
            "wrong_type", "is no mapping such as {a100: 1}", field="cluster.resources", value=cluster.resources
        )
    for name, amount in cluster.resources.items():
        if name in ("CPU", "GPU", "memory", "object_store_memory"):
            remedy = "see cluster.gpus_per_worker"
            raise RequestError("invalid_value", "is not a custom resource", remedy, "cluster.resources", name)
        if not isinstance(amount, int | float) or amount <= 0:
            raise RequestError(
                "wrong_type", f"{amount!r} is no number above zero", field="cluster.resources", value=name
            )


def size_pool(cluster: ClusterSpec) -> Pool:
    """Number of workers and resources of each, from the cluster's resources and the request.

    Raises:
        RequestError: a local machine cannot hold the requested workers, or no number is requested of a cluster
            that has no room yet.
    """
    check(cluster)
    nodes = _nodes()
    where = _described(cluster, nodes)
    local = resolve_address(cluster.address) == LOCAL and len(nodes) == 1
    resources = cluster.resources
    suitable = [node for node in nodes if _has(node, resources)]
    gpus = any(node.get("GPU") for node in suitable)
    share = float(gpus) if cluster.gpus_per_worker is None else cluster.gpus_per_worker
    fitting = sum(_room(node, share, resources) for node in suitable)
    workers = cluster.workers or min(fitting, cluster.max_workers or fitting)
    most = max(workers, cluster.max_workers or workers)
    if not local and most > fitting and cluster.gpus_per_worker is None and not gpus:
        remedy = "say cluster.gpus_per_worker=1 to wait for nodes with GPUs, or 0 to run on CPUs"
        reason = f"{most} workers are asked of a cluster that has no GPU for them now ({where})"
        raise RequestError("no_resources", reason, remedy)
    if workers < 1 or (local and most > fitting and (share or not fitting)):
        needed = f"{most or 'the'} workers need {_said(share, resources)} each"
        wait = "" if local else ", or say cluster.workers to wait for nodes that are still to come"
        raise RequestError(
            "no_resources",
            f"{needed}, and there is place for {fitting} ({where})",
            f"lower cluster.workers or what each needs{wait}",
        )
    cpus = int(sum(node.get("CPU", 0.0) for node in suitable))
    threads = cluster.threads_per_worker or (None if share else max(1, cpus // most))
    return Pool(workers, most, share, threads, where)


def explain_unplaced(cluster: ClusterSpec, pool: Pool) -> PoolError:
    """The error for workers that did not start within ``start_timeout_s``."""
    nodes, share, resources = _nodes(), pool.gpus_per_worker, cluster.resources
    fitting = sum(_room(node, share, resources) for node in nodes)
    return PoolError(
        "no_resources",
        f"{pool.workers} workers with {_said(share, resources)} each did not start within "
        f"{cluster.start_timeout_s:g} s: the cluster ({_described(cluster, nodes)}) has place for {fitting} when "
        "nothing else runs there",
        "lower cluster.workers, add nodes, or raise cluster.start_timeout_s where the model takes longer to load",
    )


def refuse_ephemeral(**paths: str | None) -> None:
    """Refuse relative paths inside a Ray job, whose working directory is deleted with the job.

    Raises:
        RequestError: a path is relative.
    """
    if not inside_ray_job():
        return
    for name, path in paths.items():
        if path and "://" not in path and not Path(path).is_absolute():
            remedy = "give an absolute path that every node sees, or an s3:// address"
            reason = "is relative, and inside a Ray job such paths lie in a folder that vanishes with the job"
            raise RequestError("invalid_value", reason, remedy, name, path)


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _room(node: Mapping[str, float], share: float, resources: Mapping[str, float]) -> int:
    """Number of workers that fit on a node: one per node without GPUs. Fractional workers do not span GPUs."""
    if not _has(node, resources):
        return 0
    if not share:
        return 1 if node.get("CPU") else 0
    gpus = node.get("GPU", 0.0)
    by_gpu = floor(gpus / share) if share >= 1 else floor(gpus) * floor(1 / share + 1e-6)
    return min([by_gpu, *(floor(node[name] / amount + 1e-6) for name, amount in resources.items())])


def _has(node: Mapping[str, float], resources: Mapping[str, float]) -> bool:
    return all(node.get(name, 0.0) >= amount for name, amount in resources.items())


def _said(share: float, resources: Mapping[str, float]) -> str:
    return ", ".join([f"{share:g} GPU"] + [f"{amount:g} {name}" for name, amount in resources.items()])


def _described(cluster: ClusterSpec, nodes: list[dict[str, float]]) -> str:
    def counted(amount: float, word: str) -> str:
        return f"{amount:g} {word}{'s' * (amount != 1)}"

    where = resolve_address(cluster.address)
    where = (local_cluster_address() or where) if where == "auto" else where
    size = [] if where == LOCAL and len(nodes) == 1 else [counted(len(nodes), "node")]
    gpus = sum(node.get("GPU", 0.0) for node in nodes)
    size.append(counted(gpus, "GPU") if gpus else counted(sum(node.get("CPU", 0.0) for node in nodes), "CPU"))
    return ", ".join([where, *size])
