"""Start-up times of the workers of a launch by part, and utilization of their models.

Each worker writes a small file when it is ready; the driver reads them at the end of the job.
"""

import json
import logging
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from acestep.parameters.values import from_json
from pipeline import IMPORTED_AT
from pipeline.storage.store import Store
from pipeline.worker.attempts import ATTEMPTS

MODEL_COLUMNS = ("condition_s", "denoise_s", "decode_s")
IMPORTS = "imports"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartUp:
    """Start-up of the workers of one launch.

    workers: workers that became ready, including replacements of dead ones.
    parts: seconds of each part of the longest start, beginning with the first import.
    model_share: 0..1, share of model work in the time from each worker's start to the last cover; None without
        covers.
    """

    workers: int = 0
    parts: Mapping[str, float] = field(default_factory=dict)
    model_share: float | None = None

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())


def worker_is_ready(store: Store, launch: str, parts: Mapping[str, float]) -> None:
    """Record that this process is ready, with the seconds of each part of its start.

    Failures are logged only, since the record is informational.
    """
    now = time.time()
    imports_s = max(now - IMPORTED_AT - sum(parts.values()), 0.0)
    content = json.dumps({"ready_at": now, "parts": {IMPORTS: imports_s, **parts}})
    try:
        store.write(f"{_folder(launch)}/{platform.node()}-{os.getpid()}.json", content.encode())
    except OSError as error:
        log.warning("what the start took is not told: %s", error)


def any_worker_is_ready(store: Store, launch: str) -> bool:
    """Whether a worker of a launch has started; True if that cannot be read."""
    try:
        return bool(store.files(_folder(launch), ".json"))
    except OSError:
        return True


def ready_workers(store: Store, launch: str) -> int:
    """Number of workers of a launch that have become ready."""
    return len(store.files(_folder(launch), ".json"))


def start_up(store: Store, launch: str, began_at: float, rows: pa.Table) -> StartUp:
    """Start-up and utilization of the workers of a launch.

    Args:
        began_at: when the driver requested the workers, in seconds since 1970.
        rows: results; those finished since ``began_at`` count.
    """
    try:
        starts = [from_json(store.read(name)) for name in store.files(_folder(launch), ".json")]
    except (OSError, ValueError) as error:
        log.warning("what the workers' start took cannot be read: %s", error)
        return StartUp()
    if not starts:
        return StartUp()
    longest = max(starts, key=lambda start: sum(start["parts"].values()))
    ready_at = [start["ready_at"] for start in starts]
    return StartUp(len(starts), longest["parts"], _model_share(ready_at, began_at, rows))


def in_words(found: StartUp) -> str:
    """The start-up in words, such as "9.1 s (imports 5.0, network 3.2), then 98.2 % in the model"."""
    listed = ", ".join(f"{name} {seconds:.1f}" for name, seconds in found.parts.items() if seconds >= 0.05)
    share = "" if found.model_share is None else f"; then {100 * found.model_share:.1f} % of the time in the model"
    return f"{found.seconds:.1f} s ({listed}){share}"


def _model_share(ready_at: list[float], began_at: float, rows: pa.Table) -> float | None:
    finished_us = pc.cast(pc.cast(rows["finished_at"], pa.timestamp("us", "UTC")), pa.int64())
    later = pc.fill_null(pc.greater(finished_us, int(began_at * 1e6)), False)
    made = rows.filter(later)
    if not len(made):
        return None
    end = pc.max(finished_us.filter(later)).as_py() / 1e6
    there = sum(end - ready for ready in ready_at)
    worked = sum(pc.sum(made[name]).as_py() or 0.0 for name in MODEL_COLUMNS)
    return worked / there if there > 0 else None


def _folder(launch: str) -> str:
    return f"{ATTEMPTS}/{launch}/workers"
