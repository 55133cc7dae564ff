"""Ray clusters: start or join one, and size the pool of workers that it can hold."""

import logging
import os
import socket
from dataclasses import dataclass

import ray

from acestep.errors import RequestError, RestyleError

KNOCK_SECONDS = 5.0


class PoolError(RestyleError):
    """The workers could not be started, or the cluster was lost."""


@dataclass(frozen=True)
class ClusterSpec:
    """How to run.

    address: "local" starts a cluster on this machine, "auto" or an address joins one.
    cpus, gpus: of a local cluster; None takes what the machine has.
    workers: loaded models; None is one per ``gpus_per_worker`` GPUs, or one on a machine without.
    threads_per_worker: CPU threads of torch in each; None shares the CPUs out on a machine without GPUs.
    gpus_per_worker: a fraction lets workers share a GPU; None is 1 where there are GPUs, else 0.
    calls_per_worker: tracks in a worker's hands at once, one on the device and the others being read or written.
    tracks_per_task: plan rows of one Ray task; more than 1 only pays when a track takes milliseconds.
    """

    address: str = "local"
    cpus: int | None = None
    gpus: int | None = None
    workers: int | None = None
    threads_per_worker: int | None = None
    gpus_per_worker: float | None = None
    calls_per_worker: int = 2
    tracks_per_task: int = 1


@dataclass(frozen=True)
class Pool:
    """The pool that a cluster can hold."""

    workers: int
    gpus_per_worker: float
    threads: int | None


def connect(cluster: ClusterSpec) -> None:
    """Start or join a Ray cluster, quietly.

    Raises:
        RequestError: there is no cluster at the address.
    """
    for chatty in ("ray.data", "ray._private.authentication"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if ray.is_initialized():  # whoever embeds us has a cluster already
        return
    local = cluster.address == "local"
    named = os.environ.get("RAY_ADDRESS", "auto") if cluster.address == "auto" else cluster.address
    if not local and named != "auto":
        refuse_unreachable(named)
    try:
        ray.init(
            address=cluster.address,
            num_cpus=cluster.cpus if local else None,
            num_gpus=cluster.gpus if local else None,
            include_dashboard=False if local else None,
            object_store_memory=300_000_000 if local else None,
            logging_level=logging.WARNING,
            log_to_driver=True,
            # On a CPU, decoding threads and torch's threads share the cores: a waiting one must not spin.
            runtime_env={"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}},
        )
    except (ConnectionError, ValueError) as error:
        raise RequestError(
            f"cluster.address {cluster.address!r}: no Ray cluster answers ({error}); "
            "use cluster.address=local to start one here"
        ) from error


def refuse_unreachable(address: str) -> None:
    """Knock before Ray does: it would go on trying for a quarter of an hour.

    Raises:
        RequestError: nothing answers at ``[ray://]host:port``.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()
    except (OSError, ValueError) as error:
        raise RequestError(
            f"cluster.address {address!r}: nothing answers ({error}); give host:port of a running Ray cluster, or "
            "cluster.address=local to start one here"
        ) from error


def size_pool(cluster: ClusterSpec) -> Pool:
    """How many workers of what share of a GPU, from what the cluster has and what was asked.

    Raises:
        RequestError: more is asked than the cluster can ever place.
    """
    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    share = cluster.gpus_per_worker
    if share is None:
        share = 1.0 if gpus else 0.0
    if share < 0 or cluster.calls_per_worker < 1 or (cluster.workers is not None and cluster.workers < 1):
        raise RequestError(
            f"cluster.gpus_per_worker {share:g}, cluster.workers {cluster.workers}, "
            f"cluster.calls_per_worker {cluster.calls_per_worker}: none may be below one (share: below zero)"
        )
    workers = cluster.workers or (max(1, int(gpus / share)) if share else 1)
    if workers * share > gpus:
        raise RequestError(
            f"{workers} workers x {share:g} GPU need {workers * share:g} GPUs and the cluster has {gpus:g}; "
            "lower cluster.workers or cluster.gpus_per_worker"
        )
    if cluster.threads_per_worker is not None and cluster.threads_per_worker < 1:
        raise RequestError(f"cluster.threads_per_worker {cluster.threads_per_worker} may not be below one")
    threads = cluster.threads_per_worker or (None if share else max(1, int(cpus) // workers))
    return Pool(workers, share, threads)
