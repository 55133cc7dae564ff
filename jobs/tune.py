"""Find the best strength and guidance for a catalogue with a fraction of the grid, and write them as a preset.

    python -m jobs.tune manifest=tracks.csv output=tuned model=base
    python -m jobs.tune manifest=tracks.csv output=tuned model=base tune.tracks=12 tune.guidances=[5,7,9]

It takes the keys of ``jobs.restyle`` except ``grid`` and ``stages``, generates covers of a sample of the tracks in
rounds, prints the reason of each round, and ends with the command that restyles the catalogue with the best
setting.

Exit status: as of ``jobs.restyle``; 0 a setting was found.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich.console import Console

from acestep.errors import RequestError
from jobs.config_keys import complete, given
from jobs.exit_status import OK, exit_on_error
from jobs.presets import read_presets, search_path
from jobs.restyle import job_of
from jobs.runner import launch
from jobs.schema import build
from pipeline.workflows.printing import plain_console
from pipeline.workflows.specs import RestyleJob, TuneSpec

if TYPE_CHECKING:
    from pipeline.workflows.tune import TuneResult


def spec_of(config: DictConfig, job: RestyleJob) -> TuneSpec:
    """Build the tuning spec.

    Raises:
        RequestError: the job has a grid or stages, or is a dry run.
    """
    if config.dry_run:
        raise RequestError("conflict", "dry_run: what tuning makes depends on what it finds", "leave it out")
    swept = [f"grid.{name}" for name, values in job.grid.items() if values is not None]
    if swept or job.stages:
        remedy = "set tune.strengths and tune.guidances, and take it out"
        raise RequestError("conflict", "tuning makes its own grid", remedy, where=(*swept, "stages")[0])
    return build(TuneSpec, complete(config)["tune"])


def run(config: DictConfig) -> int:
    """Do the job; the exit status."""
    with exit_on_error():
        job = job_of(config, given("cover"), read_presets(search_path()))
        spec = spec_of(config, job)
    from pipeline.workflows.console import RoundReporter  # these import torch and Ray
    from pipeline.workflows.tune import tune_catalogue

    console = plain_console()
    reporter = RoundReporter(console)
    with exit_on_error(reporter):
        found = tune_catalogue(job, spec, reporter, lambda text: console.print(text))
    conclude(console, job, found, sys.argv[1:])
    return OK


def conclude(console: Console, job: RestyleJob, found: "TuneResult", arguments: Sequence[str]) -> None:
    """Print the tried settings, the preset and the next command."""
    from pipeline.report.findings import FOLDER, PAGE
    from pipeline.workflows.console_findings import print_findings
    from pipeline.workflows.tune import PRESET

    print_findings(console, found.findings)
    lines = {"preset": f"{job.output}/{PRESET} (strength {found.strength:g}, guidance {found.guidance:g})"}
    if PAGE in found.findings.files:
        lines["listen"] = f"{job.output}/{FOLDER}/{PAGE}"
    lines |= found.links
    lines["next"] = following(job.output, arguments)
    for name, value in lines.items():
        console.print(f"{name:8} {value}")


def following(output: str, arguments: Sequence[str]) -> str:
    """The command that restyles the whole catalogue with the best setting."""
    from pipeline.workflows.tune import PRESET

    if "://" in output:
        return f"copy {output}/{PRESET} to a folder preset/, and name that folder's parent in hydra.searchpath"
    ours = ("tune.", "output=", "preset=", "preset.", "cover.", "tracking.", "hydra.", "hydra/", "catalogue=")
    kept = [word for word in arguments if not word.startswith(ours)]
    own = ["output=FOLDER", "preset=tuned", f"hydra.searchpath=[file://{os.path.abspath(output)}]"]
    return shlex.join(["python", "-m", "jobs.restyle", *own, *kept])


def main() -> None:
    """Run, as ``launch`` says."""
    launch("tune", run)


if __name__ == "__main__":
    main()
