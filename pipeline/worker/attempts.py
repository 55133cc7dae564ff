"""Attempt markers that detect poison items.

Ray restarts a dead worker and gives it the same item again; a marker per attempt, in a file that outlives the
process, ends that. Only deaths within one launch count, since items are not to blame for earlier interruptions.
"""

import json
import logging
import os
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from acestep.errors import RestyleError
from acestep.runtime.torch_errors import breaks_device
from pipeline.cluster.worker_deaths import was_killed_for_memory
from pipeline.storage.store import Store

log = logging.getLogger(__name__)
ATTEMPTS = "attempts"
COUNTERS = Path("/proc/vmstat")  # Linux only
KILLS = "oom_kill"


class WorkerDiedError(RestyleError):
    """An item killed its worker process too often."""


class WorkerMemoryError(WorkerDiedError):
    """An item's worker process was killed too often for lack of memory."""


@dataclass(frozen=True)
class UnderWay:
    """Work that a worker has started and not finished.

    what: the track, or its item.
    worker_id: Ray's id, "" outside of Ray.
    since: seconds since 1970, by the worker's clock.
    """

    what: str
    node: str
    pid: int
    worker_id: str
    since: float


class AttemptGuard:
    """Context manager that counts the attempts of some work: a marker stays if the process dies within.

    Args:
        what: the work, for people.
    """

    def __init__(self, store: Store, name: str, max_attempts: int, what: str = ""):
        self.store, self.name, self.max_attempts, self.what = store, name, max_attempts, what or name
        self.attempt = 1
        while store.exists(self._marker(self.attempt)):
            self.attempt += 1

    def _marker(self, attempt: int) -> str:
        return f"{ATTEMPTS}/{self.name}.{attempt}"

    def __enter__(self) -> "AttemptGuard":
        if self.attempt > self.max_attempts:
            # Its markers stay, so that a repeated task comes to the same result.
            raise self._given_up()
        worker_id = ray.get_runtime_context().get_worker_id() if ray.is_initialized() else ""
        marker = {
            "what": self.what,
            "node": platform.node(),
            "pid": os.getpid(),
            "worker_id": worker_id,
            "since": time.time(),
            KILLS: kills_by_kernel(),
        }
        self.store.write(self._marker(self.attempt), json.dumps(marker).encode())
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and breaks_device(error):
            # After such an error every call on the device fails: exit, and leave the marker, so that the death
            # counts and Ray starts a new process.
            log.critical("the device is broken, leaving: %s", error)
            os._exit(1)
        self._clear(self.attempt)

    def _clear(self, last: int) -> None:
        for attempt in range(1, last + 1):
            self.store.delete(self._marker(attempt))

    def _given_up(self) -> WorkerDiedError:
        markers = [_read(self.store, self._marker(attempt)) for attempt in range(1, self.max_attempts + 1)]
        if _for_memory([marker for marker in markers if marker]):
            return WorkerMemoryError(
                "out_of_memory",
                f"the worker process was killed {self.max_attempts} times at this item for lack of memory",
                "cut the track, or give workers more memory (fewer cluster.workers, RAY_memory_usage_threshold)",
            )
        reason = f"the worker process died {self.max_attempts} times at this item"
        return WorkerDiedError("worker_died", reason, "it is not tried again")


def under_way(store: Store, launch: str) -> list[UnderWay]:
    """Work that the workers of a launch, including dead ones, have started and not finished; the oldest first."""
    found = []
    for name in store.files(f"{ATTEMPTS}/{launch}", ""):
        marker = _read(store, name)
        if marker is not None:
            fields = {key: marker[key] for key in ("what", "node", "pid", "worker_id", "since")}
            found.append(UnderWay(**fields))
    return sorted(found, key=lambda one: one.since)


def kills_by_kernel() -> int | None:
    """Processes that this machine's kernel has killed for lack of memory; None where unknown."""
    with suppress(OSError):
        for line in COUNTERS.read_text().splitlines():
            if line.startswith(f"{KILLS} "):
                return int(line.split()[1])
    return None


def _for_memory(markers: list[Mapping[str, Any]]) -> bool:
    """Whether a process that left one of these markers was killed for lack of memory.

    The kernel's counter does not name processes; an increase since a marker was written is attributed to it.
    """
    now = kills_by_kernel()
    here = [marker[KILLS] for marker in markers if marker["node"] == platform.node()]
    if now is not None and any(before is not None and before < now for before in here):
        return True
    return was_killed_for_memory(marker["worker_id"] for marker in markers)


def _read(store: Store, name: str) -> dict[str, Any] | None:
    """The content of a marker; None if it is gone or invalid."""
    try:
        return dict(json.loads(store.read(name)))
    except (OSError, ValueError):
        return None


def mark_start(store: Store, launch: str) -> None:
    """Remove the markers of earlier launches, and mark the output folder, so that workers can recognize it."""
    store.delete_folder(ATTEMPTS)
    store.write(_start(launch), b"")


def is_marked(store: Store, launch: str) -> bool:
    """Whether this node sees the mark of ``mark_start``."""
    return store.exists(_start(launch))


def _start(launch: str) -> str:
    return f"{ATTEMPTS}/{launch}/started"
