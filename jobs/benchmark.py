"""Benchmark against Hugging Face diffusers with equal weights and noise, after a check that the outputs agree.

    python -m jobs.benchmark workload=single_turbo
    python -m jobs.benchmark workload=single_base size=wide peer=both rounds=5
    python -m jobs.benchmark workload=step size=wide duration_s=[30,240]
    python -m jobs.benchmark workload=sweep size=full device=cuda compiled=true out=results/sweep.md

Workloads: single_turbo, single_base, long (4 and 10 minutes), sweep (5 strengths x 4 guidances of one track),
catalogue (32 tracks of mixed lengths), vae, step (one evaluation of the transformer). Sizes: mini, mid, wide (the
published width, 8 layers), full. Weights are random, so nothing is downloaded. ``compiled=true`` uses
torch.compile on a GPU. After each case the report in ``out`` and its line in the ``.jsonl`` file of the same name
are updated; the report is printed at the end, even if a later case fails. If diffusers runs out of memory, its row
states it and only this implementation is timed. On a busy machine, use threads=1 and compare CPU times.

Exit status: 0 done; 1 the two sides disagree in a case, or the report could not be written, and the earlier cases
are reported; 2 could not start; 130 interrupted (143 by SIGTERM, 129 by SIGHUP).
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from omegaconf import DictConfig

from acestep.errors import RequestError
from jobs.config_keys import complete
from jobs.exit_status import AGAIN, BROKE_OFF, OK, exit_on_error
from jobs.runner import launch
from pipeline.benchmark.config import BenchmarkRequest, parse_request
from pipeline.storage.store import no_empty_folders, open_store
from pipeline.workflows.printing import plain_console

FOLDER = "outputs/benchmark"
PEER = "diffusers>=0.42.1,<0.43"


def file_of(request: BenchmarkRequest) -> Path:
    """The file of the report.

    Raises:
        RequestError: it cannot be written, or the device is unknown.
    """
    from acestep.handler import pick_device  # imports torch

    kind = pick_device(request.device).type
    name = f"{request.workload}-{request.size}-{kind}.md"
    file = Path(request.out or f"{FOLDER}/{name}").expanduser()
    if file.suffix == ".jsonl":
        remedy = f"name the Markdown file: out={file.with_suffix('.md')}"
        raise RequestError("invalid_value", f"out '{file}' is where the JSON lines go", remedy)
    for taken in (file, file.with_suffix(".jsonl")):
        if taken.is_dir():
            remedy = f"name a file: out={file / name}"
            raise RequestError("invalid_value", f"out '{file}': '{taken}' is a folder", remedy)
    for folder in file.parents:
        if folder.exists() and not folder.is_dir():
            remedy = "name another place with out="
            raise RequestError("not_writable", f"out '{file}': '{folder}' is a file and no folder", remedy)
    place = open_store(str(file.parent))
    with no_empty_folders(place):
        try:
            place.write(".writable", b"")
            place.delete(".writable")
        except OSError as error:
            remedy = "name another place with out="
            raise RequestError("not_writable", f"out '{file}': cannot be written ({error})", remedy) from error
    return file


def missing_peer(error: ImportError) -> RequestError:
    """Error for a missing or unsuitable diffusers."""
    try:
        found = f"found is {version('diffusers')}"
    except PackageNotFoundError:
        found = "none is installed"
    remedy = (
        f'{found} ({error}); python -m pip install -e ".[benchmark]" in the checkout, or pip '
        'install "restyle[benchmark]"'
    )
    return RequestError("not_installed", f"measuring needs {PEER}", remedy)


def run(config: DictConfig) -> int:
    """Do the job; the exit status."""
    console, errors = plain_console(), plain_console(stderr=True)
    with exit_on_error(kept=AGAIN):
        request = parse_request(complete(config))
        file = file_of(request)
        try:
            # Only now, since diffusers takes seconds to import and may not be there.
            from pipeline.benchmark.output_diff import EqualityError
            from pipeline.benchmark.report import markdown, write
            from pipeline.benchmark.run import benchmark
        except ImportError as error:
            if (error.name or "").partition(".")[0] != "diffusers":
                raise
            raise missing_peer(error) from error
        report, written = None, None
        try:
            for report in benchmark(request, lambda line: errors.print(line)):
                written = write(report, file, written)
        except EqualityError as error:
            errors.print(f"error: {error}", style="red")
            return BROKE_OFF
        finally:
            if report is not None:
                console.print(markdown(report))
            if written is not None:
                lines = file.with_suffix(".jsonl")
                console.print(f"appended to {file} and {lines}")
    return OK


def main() -> None:
    """Run, as ``launch`` says."""
    launch("benchmark", run)


if __name__ == "__main__":
    main()
