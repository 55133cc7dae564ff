"""Memory of a long job: driver, workers and object store, sampled while a catalogue is restyled.

    python -m tests.pipeline.planning.memory --covers 2000

Short clips and tracks of ten minutes; ``--model`` makes real covers on the miniature model at one step, and
without it the model does nothing, which takes minutes in place of half an hour. Prints a sample for each twentieth
of the job; Linux only.
"""

import argparse
import re
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import ray
import soundfile
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from rich.console import Console

from acestep.constants import SAMPLE_RATE
from acestep.sampling.setting import CoverSetting
from pipeline.cluster.spec import ClusterSpec
from pipeline.results.progress import Progress
from pipeline.tracking.spec import TrackingSpec
from pipeline.worker.restyle_worker import RestyleWorker
from pipeline.workflows.console import ConsoleReporter
from pipeline.workflows.restyle import run
from pipeline.workflows.specs import RestyleJob
from tests.conftest import tone
from tests.miniature import BASE
from tests.pipeline.worker.throughput import SleepingWorker

LONG_S = 600


@dataclass(frozen=True)
class Sample:
    """Megabytes after so many covers: resident memory of the driver and of the largest worker; objects stored."""

    covers: int
    driver: float
    worker: float
    store: float


class Sampler(ConsoleReporter):
    """Takes a sample for each of twenty equal parts of a job."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.samples: list[Sample] = []

    def advanced(self, progress: Progress) -> None:
        super().advanced(progress)
        if progress.done * 20 // progress.items > len(self.samples):
            self.samples.append(
                Sample(progress.done, resident_mb("self"), max(map(resident_mb, workers())), stored())
            )


def resident_mb(process: str) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) / 1000 if found else 0.0


def workers() -> list[str]:
    """Processes of Ray actors."""
    found = [
        path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if b"ray::MapWorker" in path.read_bytes()
    ]
    return [path.name for path in found] or ["self"]


def stored() -> float:
    """Megabytes of objects in the object store."""
    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    return get_memory_info_reply(state).store_stats.object_store_bytes_used / 1e6


def measure(folder: Path, covers: int, long: int, model: bool) -> list[Sample]:
    """Restyle ``covers`` tracks, ``long`` of them ten minutes long."""
    clips = [folder / f"{k}.flac" for k in range(20)]
    for k, clip in enumerate(clips):
        soundfile.write(clip, tone(5.0 + k / 20), SAMPLE_RATE)
    soundfile.write(folder / "long.flac", np.tile(tone(10.0), (LONG_S // 10, 1)), SAMPLE_RATE)
    # A row's own seed makes it another cover of the same file.
    rows = [f"{k},{'long.flac' if k < long else clips[k % 20].name},jazz,{k}" for k in range(covers)]
    (folder / "tracks.csv").write_text("\n".join(["track_id,source,caption,seed", *rows]))
    job = RestyleJob(
        manifest=str(folder / "tracks.csv"),
        output=str(folder / "out"),
        cover=asdict(CoverSetting()) | {"seed": 1, "inference_steps": 1},
        model=BASE,
        cluster=ClusterSpec(address="local", workers=2, threads_per_worker=1),
        tracking=TrackingSpec(enabled=False),
    )
    sampler = Sampler()
    idle = type("Worker", (SleepingWorker,), {"log": str(folder / "log.txt")})
    summary = run(job, sampler, RestyleWorker if model else idle)
    if summary.ok != covers:
        raise SystemExit(f"{summary.ok} of {covers} covers: {summary.problems.to_pylist()[:1]}")
    return sampler.samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--covers", type=int, default=2000)
    parser.add_argument("--long", type=int, default=10, help="of them, tracks of ten minutes")
    parser.add_argument("--model", action="store_true", help="make real covers")
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        print("covers   driver  worker   store  (MB)")
        for sample in measure(Path(name), args.covers, args.long, args.model):
            print(f"{sample.covers:6} {sample.driver:8.0f}{sample.worker:8.0f}{sample.store:8.1f}")
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
