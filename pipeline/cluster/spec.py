"""What a job asks of a Ray cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.cluster.address import LOOPBACK


@dataclass(frozen=True)
class ClusterSpec:
    """Where to run, and how many workers.

    address: "local" starts a cluster on this machine; "existing" joins the one that RAY_ADDRESS names, else the
        one that ``ray start`` started on this machine; "auto" joins where RAY_ADDRESS is set and else is "local";
        host:port joins that one.
    cpus, gpus: of a local cluster; None takes what the machine has.
    node_ip_address: of a local cluster, where its ports listen. Loopback is this machine alone; another of the
        machine's addresses opens the ports to the network, and so does None, where Ray chooses.
    workers: loaded models; None is as many as the nodes have place for by ``gpus_per_worker`` and ``resources``,
        or one a node without GPUs.
    max_workers: let the pool grow up to this while work waits; None keeps it at ``workers``.
    threads_per_worker: CPU threads of torch in each; None shares the CPUs out on a machine without GPUs.
    gpus_per_worker: a fraction lets workers share a GPU; None is 1 where there are GPUs, else 0.
    resources: custom Ray resources that each worker takes, so that it lands on nodes which have them:
        ``{"accelerator_type:A100": 0.001}``.
    calls_per_worker: tracks in a worker's hands at once, one on the device and the others being read or written.
    task_seconds: short tracks go to a worker together, up to so many seconds of source times covers.
    ship_code: send this code to the nodes of a cluster that is joined.
    install: let those nodes install what this code needs, at the versions of constraints.txt, into an environment
        of its own; for nodes that have nothing but Ray.
    start_timeout_s: how long Ray may take to start here, and how long the first workers may take to find a place
        and to load their model.
    stall_timeout_s: give up when no cover finishes for so long, or for 20 times as long as the slowest one took;
        None never does.
    stop_timeout_s: how long a stop request waits for the covers under way.
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
        if self.resources is None:  # how a configuration leaves a mapping open
            object.__setattr__(self, "resources", {})
