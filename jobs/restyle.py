"""Restyle a catalogue.

    python -m jobs.restyle manifest=tracks.csv output=out model=turbo
    python -m jobs.restyle manifest=tracks.csv output=out model=base grid.seed=[1,2]
    python -m jobs.restyle manifest=tracks.csv output=out model=base preset=country_to_heavy_metal

``dry_run=true`` checks everything and prints the remaining work without generating covers. ``--cfg job`` prints
the whole configuration.

Exit status: 0 all covers are present; 1 aborted; 2 could not start; 3 some tracks failed or were rejected; 130
stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP, after the covers in progress (a second signal stops at once).
Finished covers are kept, and the same command resumes the job.
"""

from collections.abc import Sequence

from omegaconf import DictConfig

from jobs.config_keys import complete, given
from jobs.exit_status import INCOMPLETE, OK, exit_on_error
from jobs.presets import read_presets, search_path
from jobs.runner import launch
from jobs.schema import build
from pipeline.catalogue.own_columns import parse_declared
from pipeline.catalogue.presets import Preset
from pipeline.report.spec import FindingsSpec
from pipeline.workflows.printing import plain_console
from pipeline.workflows.specs import RestyleJob


def job_of(config: DictConfig, by_hand: Sequence[str] = (), presets: Sequence[Preset] = ()) -> RestyleJob:
    """Build the job from a composed configuration.

    Args:
        by_hand: parameters of ``cover`` set on the command line.
        presets: presets that manifest rows may name by their genres.

    Raises:
        RestyleError: a required value is missing.
    """
    values = complete(config)
    preset = values["preset"]
    return build(
        RestyleJob,
        values,
        duplicates=values["grid"].pop("duplicates"),
        preset=preset["name"],
        caption=preset["caption"],
        manifest_columns=parse_declared(values["manifest_columns"]),
        findings=build(FindingsSpec, values),
        by_hand=by_hand,
        presets=presets,
    )


def run(config: DictConfig) -> int:
    """Do the job; the exit status."""
    with exit_on_error():
        job = job_of(config, given("cover"), read_presets(search_path()))
    from pipeline.storage.lease import holder_of  # these import torch and Ray
    from pipeline.storage.store import open_store
    from pipeline.workflows.console import ConsoleReporter
    from pipeline.workflows.restyle import run as restyle
    from pipeline.workflows.restyle_job import dry_run

    reporter = ConsoleReporter(plain_console())
    with exit_on_error(reporter):
        if config.dry_run:
            found = dry_run(job)
            reporter.foreseen(found)
            if holder := holder_of(open_store(job.output)):
                reporter.warned(f"output {job.output} is in use by {holder}; a launch has to wait until it ends")
            return INCOMPLETE if len(found.problems) else OK
        summary = restyle(job, reporter)
    reporter.closed(job, summary)
    return OK if summary.complete else INCOMPLETE


def main() -> None:
    """Run, as ``launch`` says."""
    launch("restyle", run)


if __name__ == "__main__":
    main()
