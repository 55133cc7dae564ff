"""Measure ours against Hugging Face diffusers on the same weights and the same noise, equality first.

    python -m jobs.benchmark workload=single_turbo
    python -m jobs.benchmark workload=single_base size=wide peer=both rounds=5
    python -m jobs.benchmark workload=step size=wide duration_s=[30,240]
    python -m jobs.benchmark workload=sweep size=full device=cuda dtype=bfloat16 out=results/sweep.md

Workloads: single_turbo, single_base, long (4 and 10 minutes), sweep (5 strengths x 4 guidances of one track),
catalogue (32 tracks of mixed lengths), vae, step (one evaluation of the transformer). Sizes: mini, mid, wide (the
published width, 8 layers), full. Weights are random, so nothing is downloaded. The tables are printed and appended
to ``out``, with one JSON line beside it. Where other processes run, add threads=1 and read the CPU time: threads
that wait for each other spend it too.

Exit status: 0 done; 1 the two sides do not agree, and nothing was timed; 2 could not start; 130 interrupted.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from acestep.errors import RequestError
from jobs.command_line import complete, launch
from jobs.leaving import AGAIN, BROKE_OFF, COULD_NOT_START, leaving
from jobs.schema import register
from pipeline.benchmark.request import BenchmarkRequest, parse_request

FOLDER = "outputs/benchmark"

register()
_entered: list[bool] = []


def request_of(config: DictConfig) -> BenchmarkRequest:
    """The request that a composed configuration describes.

    Raises:
        RestyleError: a value is missing, unknown or out of range, or diffusers is not installed.
    """
    request = parse_request(complete(config))
    if find_spec("diffusers") is None:
        raise RequestError(
            'diffusers, which is measured against, is not installed; pip install "restyle[benchmark]"'
        )
    return request


def file_of(request: BenchmarkRequest, device: str) -> Path:
    """Where the report goes."""
    kind = device.partition(":")[0]
    return Path(request.out or f"{FOLDER}/{request.workload}-{request.size}-{kind}.md")


@hydra.main(version_base="1.3", config_path="../conf", config_name="benchmark")
def _main(config: DictConfig) -> None:
    _entered.append(True)
    console, errors = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)
    with leaving(kept=AGAIN):
        request = request_of(config)
        # Only now, since diffusers takes seconds to import and may not be there.
        from pipeline.benchmark.outputs import EqualityError
        from pipeline.benchmark.run import benchmark
        from pipeline.benchmark.tables import markdown, write

        try:
            report = benchmark(request, lambda line: errors.print(line, markup=False, highlight=False))
        except EqualityError as error:
            errors.print(f"error: {error}", style="red", markup=False, highlight=False)
            sys.exit(BROKE_OFF)
        file = file_of(request, report.device)
        write(report, file)
    console.print(markdown(report), markup=False, highlight=False)
    console.print(f"appended to {file} and {file.with_suffix('.jsonl')}", markup=False, highlight=False)


def main() -> None:
    """Run, as ``launch`` says."""
    launch(_main, "benchmark", COULD_NOT_START, _entered)


if __name__ == "__main__":
    main()
