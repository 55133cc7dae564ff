"""Deaths of this job's worker processes, as recorded by Ray's head node."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import state
from ray.core.generated import common_pb2, gcs_pb2

log = logging.getLogger(__name__)
BY_MONITOR = "killed by Ray's memory monitor"
UNEXPECTED = "ended unexpectedly (killed by a signal, by the kernel for lack of memory, or crashed)"
REMEDY = (
    "free memory on the node, lower cluster.workers, or let Ray use more of it with RAY_memory_usage_threshold "
    "(0.95 unless set)"
)
_common: Any = common_pb2  # generated without types
_gcs: Any = gcs_pb2


@dataclass(frozen=True)
class WorkerDeath:
    """An unexpected end of a worker process.

    worker_id: Ray's worker id.
    for_memory: the process was killed by Ray's memory monitor.
    detail: Ray's description in one line.
    """

    worker_id: str
    pid: int
    for_memory: bool
    detail: str


def read_deaths() -> list[WorkerDeath]:
    """All deaths of this job's workers so far.

    Raises:
        RaySystemError: the head node does not answer.
    """
    job = bytes.fromhex(ray.get_runtime_context().get_job_id())
    # Ray's public state API needs the dashboard, which a plain installation lacks.
    table = [_gcs.WorkerTableData.FromString(raw) for raw in state._connect_and_get_accessor().get_worker_table()]
    return [_death(one) for one in table if one.job_id == job and _died(one)]


def was_killed_for_memory(worker_ids: Iterable[str]) -> bool:
    """Whether Ray's memory monitor killed one of these workers; False if Ray does not answer."""
    ids = set(worker_ids)
    if not ray.is_initialized() or not ids:
        return False
    try:
        return any(one.for_memory and one.worker_id in ids for one in read_deaths())
    except Exception as error:  # a private interface with undocumented errors
        log.warning("whether a worker was killed for lack of memory cannot be told: %s", error)
        return False


def in_words(deaths: Sequence[WorkerDeath]) -> str:
    """Summary such as "5 processes died: 4 killed by Ray's memory monitor, 1 ended unexpectedly (...)"."""
    causes = Counter(BY_MONITOR if death.for_memory else UNEXPECTED for death in deaths)
    listed = ", ".join(f"{count} {cause}" for cause, count in causes.most_common())
    return f"{len(deaths)} process{'es' * (len(deaths) != 1)} died: {listed}"


def remedy(deaths: Sequence[WorkerDeath]) -> str:
    """Remedy, with Ray's description of the last death."""
    monitored = [death for death in deaths if death.for_memory]
    if monitored:
        return f"{monitored[-1].detail}. {REMEDY[0].upper()}{REMEDY[1:]}"
    return "see dmesg on the node, and the worker's log in Ray's session folder"


def _died(worker: Any) -> bool:
    by_itself = (_common.WorkerExitType.SYSTEM_ERROR, _common.WorkerExitType.NODE_OUT_OF_MEMORY)
    return not worker.is_alive and worker.worker_type == _common.WORKER and worker.exit_type in by_itself


def _death(worker: Any) -> WorkerDeath:
    for_memory = worker.exit_type == _common.WorkerExitType.NODE_OUT_OF_MEMORY
    lines = [line for line in worker.exit_detail.splitlines() if line]
    reason = [line for line in lines if line.startswith("OOM kill reason: ")]
    detail = reason[0].removeprefix("OOM kill reason: ") if reason else " ".join(lines[:1])
    return WorkerDeath(worker.worker_address.worker_id.hex(), worker.pid, for_memory, detail)
