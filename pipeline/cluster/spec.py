"""Cluster requirements of a job."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.cluster.address import LOOPBACK


@dataclass(frozen=True)
class ClusterSpec:
    """Which cluster to use, and the size of the worker pool.

    address: "local" starts a cluster on this machine; "existing" joins the one named by RAY_ADDRESS, else the one
        started by ``ray start`` on this machine; "auto" joins if RAY_ADDRESS is set, else starts a local cluster;
        host:port joins that cluster.
    cpus, gpus: size of a local cluster; None uses the machine's.
    node_ip_address: address that the ports of a local cluster listen on. Loopback restricts them to this machine;
        any other address, or None (chosen by Ray), opens them to the network.
    workers: number of workers, each with a loaded model; None uses as many as fit by ``gpus_per_worker`` and
        ``resources``, or one per node without GPUs.
    max_workers: upper limit for autoscaling of the pool; None keeps it at ``workers``.
    threads_per_worker: torch CPU threads per worker; None divides the CPUs on a machine without GPUs.
    gpus_per_worker: GPUs per worker, a fraction to share a GPU; None is 1 on a cluster with GPUs, else 0.
    resources: custom Ray resources per worker, which restrict placement: ``{"accelerator_type:A100": 0.001}``.
    calls_per_worker: concurrent tracks per worker: one on the device, the others being read or written.
    task_seconds: short tracks are batched into one task up to this many seconds of source times covers.
    ship_code: upload this code to the nodes of a joined cluster.
    install: install the dependencies at the versions of constraints.txt in a virtual environment on those nodes;
        for nodes that have only Ray.
    start_timeout_s: time limit for the start of a local cluster, and for placing the first workers and loading
        their models.
    stall_timeout_s: abort when no cover finishes for this long, or for 20 times the slowest cover if that is
        longer; None disables the check.
    stop_timeout_s: how long a stop request waits for the covers in progress.
    """

    address: str = "auto"
    cpus: int | None = None
    gpus: int | None = None
    node_ip_address: str | None = LOOPBACK
    workers: int | None = None
    max_workers: int | None = None
    threads_per_worker: int | None = None
    gpus_per_worker: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    calls_per_worker: int = 3
    task_seconds: float = 30.0
    ship_code: bool = True
    install: bool = False
    start_timeout_s: float = 600.0
    stall_timeout_s: float | None = 3600.0
    stop_timeout_s: float = 300.0

    def __post_init__(self) -> None:
        if self.resources is None:  # Hydra's default for a mapping
            object.__setattr__(self, "resources", {})
