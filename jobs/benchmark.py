"""Measure ours against Hugging Face diffusers on the same weights and the same noise, equality first.

    python -m jobs.benchmark workload=single_turbo
    python -m jobs.benchmark workload=single_base size=wide peer=both rounds=5
    python -m jobs.benchmark workload=step size=wide duration_s=[30,240]
    python -m jobs.benchmark workload=sweep size=full device=cuda compiled=true out=results/sweep.md

Workloads: single_turbo, single_base, long (4 and 10 minutes), sweep (5 strengths x 4 guidances of one track),
catalogue (32 tracks of mixed lengths), vae, step (one evaluation of the transformer). Sizes: mini, mid, wide (the
published width, 8 layers), full. Weights are random, so nothing is downloaded. ``compiled=true`` runs ours through
torch.compile, on a GPU. After each case the report at the end of ``out`` is brought up to date, and its JSON line
in the ``.jsonl`` beside it; it is printed at the end, also where a later case fails. A peer that runs out of
memory has a row that says so, and ours is timed alone. Where other processes run, add threads=1 and read the CPU
time: threads that wait for each other spend it too.

Exit status: 0 done; 1 the two sides do not agree in some case, or the report could not be written, and the cases
before it are reported; 2 could not start; 130 interrupted
(143 by SIGTERM, 129 by SIGHUP).
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from omegaconf import DictConfig

from acestep.errors import RequestError
from jobs.command_line import complete
from jobs.leaving import AGAIN, BROKE_OFF, OK, leaving
from jobs.runner import launch
from pipeline.benchmark.config import BenchmarkRequest, parse_request
from pipeline.storage.store import no_empty_folders, open_store
from pipeline.workflows.printing import plain_console

FOLDER = "outputs/benchmark"
PEER = "diffusers>=0.42.1,<0.43"


def file_of(request: BenchmarkRequest) -> Path:
    """Where the report goes.

    Raises:
        RequestError: it cannot go there, or the device is not known.
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
    """What to do where diffusers, or what is needed of it, cannot be imported."""
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
    with leaving(kept=AGAIN):
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
