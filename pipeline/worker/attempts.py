"""Markers of work under way, in files that outlive the process: a track that kills its worker is found out.

Ray restarts a dead worker and hands it the same track for ever; the markers end that. Only deaths within one
launch count: what was stopped from outside is not to blame.
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
import torch

from acestep.errors import RestyleError
from pipeline.cluster.worker_deaths import was_killed_for_memory
from pipeline.storage.store import Store

log = logging.getLogger(__name__)
ATTEMPTS = "attempts"
COUNTERS = Path("/proc/vmstat")  # Linux alone
KILLS = "oom_kill"


class WorkerDiedError(RestyleError):
    """An item took its worker process down too often."""


class WorkerMemoryError(WorkerDiedError):
    """Lack of memory killed an item's worker process too often."""


@dataclass(frozen=True)
class UnderWay:
    """Work that a worker has begun and not left.

    what: the track, or the item of it.
    worker_id: Ray's, "" outside of Ray.
    since: seconds since 1970, by the worker's clock.
    """

    what: str
    node: str
    pid: int
    worker_id: str
    since: float


class AttemptGuard:
    """Counts how often work was begun and not left again.

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
            # Its markers stay: the task may run again, and must come to the same answer.
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
        if error is not None and _breaks_device(error):
            # After such an error every later call on the device fails: leave, with the marker standing, so that
            # the death counts and Ray starts a fresh process.
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
                f"the worker process was killed {self.max_attempts} times at this item for lack of memory; "
                "cut the track, or give workers more memory (fewer cluster.workers, RAY_memory_usage_threshold)"
            )
        return WorkerDiedError(
            f"the worker process died {self.max_attempts} times at this item; it is not tried again"
        )


def under_way(store: Store, launch: str) -> list[UnderWay]:
    """What the workers of a launch have begun and not left, dead ones included; the oldest first."""
    found = []
    for name in store.files(f"{ATTEMPTS}/{launch}", ""):
        marker = _read(store, name)
        if marker is not None:
            fields = {key: marker[key] for key in ("what", "node", "pid", "worker_id", "since")}
            found.append(UnderWay(**fields))
    return sorted(found, key=lambda one: one.since)


def kills_by_kernel() -> int | None:
    """How many processes the kernel of this machine has killed for lack of memory; None where it does not say."""
    with suppress(OSError):
        for line in COUNTERS.read_text().splitlines():
            if line.startswith(f"{KILLS} "):
                return int(line.split()[1])
    return None


def _for_memory(markers: list[Mapping[str, Any]]) -> bool:
    """Whether one of the processes that left these markers was killed for lack of memory.

    The kernel counts such kills and does not say of what; a count that has grown since a marker was left is taken
    as its process.
    """
    now = kills_by_kernel()
    here = [marker[KILLS] for marker in markers if marker["node"] == platform.node()]
    if now is not None and any(before is not None and before < now for before in here):
        return True
    return was_killed_for_memory(marker["worker_id"] for marker in markers)


def _read(store: Store, name: str) -> dict[str, Any] | None:
    """The content of a marker; None where it is gone or is not a marker of work."""
    try:
        return dict(json.loads(store.read(name)))
    except (OSError, ValueError):
        return None


def _breaks_device(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and "CUDA err" in str(error)
    )


def mark_start(store: Store, launch: str) -> None:
    """Forget earlier launches, and leave a file by which workers know the driver's output folder."""
    store.delete_folder(ATTEMPTS)
    store.write(_start(launch), b"")


def is_marked(store: Store, launch: str) -> bool:
    """Whether ``mark_start`` of this launch is seen here."""
    return store.exists(_start(launch))


def _start(launch: str) -> str:
    return f"{ATTEMPTS}/{launch}/started"
