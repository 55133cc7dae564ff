"""The pipeline's own cost: real jobs whose model does nothing but take its time.

    python -m tests.pipeline.worker.throughput

All but the model is the job as it is: sources are read and decoded, markers, audio, receipts and rows written.
Efficiency is the time that the workers' devices were busy over the time there was, from when the last worker began
to the end of the last cover; starting up is told apart.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import soundfile
import torch
from rich.console import Console

from acestep.constants import SAMPLE_RATE
from acestep.generation.chain import Chain, Cover
from acestep.generation.conditions import TrackConditions
from acestep.generation.stages import Stage
from acestep.sampling.plan import CoverPlan
from acestep.sampling.setting import CoverSetting
from pipeline.cluster.spec import ClusterSpec
from pipeline.metrics.spec import MetricsSpec
from pipeline.tracking.spec import TrackingSpec
from pipeline.worker.restyle_worker import RestyleWorker
from pipeline.workflows.console import ConsoleReporter
from pipeline.workflows.restyle import run
from pipeline.workflows.specs import RestyleJob
from tests.conftest import tone
from tests.miniature import BASE


class SleepingWorker(RestyleWorker):
    """Takes ``step_s`` for a cover, or ``per_s`` for each second of it, and writes down when."""

    step_s = per_s = 0.0
    log = ""
    known: TrackConditions | None = None

    def listen(
        self,
        track: dict[str, Any],
        source: torch.Tensor,
        reference: torch.Tensor | None,
        plans: Sequence[CoverPlan],
    ) -> tuple[TrackConditions, list[str]]:
        if self.known is None:
            self.known = super().listen(track, source, reference, plans)[0]
        return replace(self.known, duration_s=source.shape[1] / SAMPLE_RATE), []

    def cover(self, item_id: str, chain: Chain, stages: tuple[Stage, ...], seed: int) -> Cover:
        began, seconds = time.time(), chain.track.duration_s
        time.sleep(self.step_s + self.per_s * seconds)
        with Path(self.log).open("a") as log:
            log.write(f"{os.getpid()} {began} {time.time()}\n")
        wave = torch.zeros(2, int(seconds * SAMPLE_RATE))
        wave[:, ::100] = 0.5
        return Cover(chain.track, torch.zeros(1, 1, 1), wave, 0.0, 0.0)


@dataclass(frozen=True)
class Measured:
    """start_up_s: from launch to when the last worker began; efficiency: 0..1, after that."""

    start_up_s: float
    efficiency: float


def measure(folder: Path, seconds: Sequence[float], workers: int, step_s: float, per_s: float = 0.0) -> Measured:
    """Run a catalogue of tracks of these lengths."""
    folder.mkdir(parents=True)
    lines = ["track_id,source,caption"]
    for k, length in enumerate(seconds):
        soundfile.write(folder / f"{k}.flac", tone(length), SAMPLE_RATE)
        lines.append(f"{k},{k}.flac,jazz")
    (folder / "tracks.csv").write_text("\n".join(lines))
    log = folder / "log.txt"
    job = RestyleJob(
        manifest=str(folder / "tracks.csv"),
        output=str(folder / "out"),
        cover=asdict(CoverSetting()) | {"seed": 1},
        model=BASE,
        cluster=ClusterSpec(address="local", workers=workers, threads_per_worker=1),
        tracking=TrackingSpec(enabled=False),
        metrics=MetricsSpec(enabled=False),  # beside a model that only sleeps nothing else may work
    )
    launched = time.time()
    pace = {"step_s": step_s, "per_s": per_s, "log": str(log)}
    summary = run(job, ConsoleReporter(Console(quiet=True)), type("Worker", (SleepingWorker,), pace))
    if summary.ok != len(seconds):
        raise SystemExit(f"{summary.ok} of {len(seconds)} covers: {summary.problems.to_pylist()[:1]}")
    covers = [tuple(map(float, line.split())) for line in log.read_text().splitlines()]
    starts: dict[float, float] = {}
    for pid, start, _ in covers:
        starts[pid] = min(start, starts.get(pid, start))
    began, ended = max(starts.values()), max(end for _, _, end in covers)
    busy = sum(max(0.0, end - max(start, began)) for _, start, end in covers)
    return Measured(began - launched, busy / (workers * (ended - began)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--covers", type=int, default=200, help="of equal length; a quarter of them at 500 ms")
    parser.add_argument(
        "--clip", type=float, default=1.0, help="seconds; decoding and encoding costs CPU time too"
    )
    covers, clip_s = parser.parse_args().covers, parser.parse_args().clip
    rng = random.Random(0)
    mixed = [min(90.0, max(3.0, rng.lognormvariate(2.3, 0.8))) for _ in range(60)]
    with tempfile.TemporaryDirectory() as name:
        for title, found in (
            ("50 ms a cover, 2 workers", measure(Path(name, "short"), [clip_s] * covers, 2, 0.05)),
            ("500 ms a cover, 2 workers", measure(Path(name, "long"), [clip_s] * (covers // 4), 2, 0.5)),
            ("mixed lengths, 4 workers", measure(Path(name, "mixed"), mixed, 4, 0.0, 0.06)),
        ):
            print(f"{title}: {100 * found.efficiency:.1f} % busy, start-up {found.start_up_s:.1f} s", flush=True)


if __name__ == "__main__":
    main()
