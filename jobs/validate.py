"""Look at everything a job needs before it runs, and say all that is wrong at once.

    python -m jobs.validate manifest=tracks.csv output=out model=turbo
    python -m jobs.validate manifest=tracks.csv output=out model=turbo validate.decode=full validate.report=bad.csv
    python -m jobs.validate manifest=tracks.csv output=new model=turbo validate.rates_from=old validate.workers=8

It takes every key of ``jobs.restyle``, so that one edits the verb only; ``dry_run`` says nothing here. Nothing is
downloaded and nothing is made, but that the output folder remembers under ``probes/`` what the sources are.

Exit status: 0 nothing is wrong; 2 the job could not start; 3 it could, and some tracks cannot run or space is
short; 130 interrupted (143 by SIGTERM, 129 by SIGHUP).
"""

import sys
import time
from collections.abc import Mapping, Sequence

import hydra
from omegaconf import DictConfig
from rich.console import Console

from acestep.errors import RequestError, RestyleError
from jobs.command_line import given, launch
from jobs.presets import read_presets, search_path
from jobs.restyle import job_of
from jobs.schema import register
from pipeline.catalogue.problem_report import ReportedProblem
from pipeline.cluster.signals import raise_on_stop_signals
from pipeline.planning.disk_space import DiskSpace
from pipeline.planning.estimate import Estimate
from pipeline.workflows.printing import plain_console
from pipeline.workflows.restyle_job import assumed_dtype
from pipeline.workflows.specs import RestyleJob, ValidateSpec
from pipeline.workflows.validate import PartCheck, Validation, validate

OK, COULD_NOT_START, INCOMPLETE = 0, 2, 3
LINE_INTERVAL_S = 10.0
NAME, KIND, TRACK = 15, 20, 24

register()
_entered: list[bool] = []


class ConsoleValidationReporter:
    """Prints each check as it ends, and now and then how far the sources are."""

    def __init__(self, console: Console):
        self.console = console
        self.said_at = time.monotonic()

    def checked(self, check: PartCheck) -> None:
        """One line, and one for each reason why the job cannot start."""
        self.line(f"{check.name:{NAME}}{'ok' if check.ok else 'problem':9}{'' if check.errors else check.said}")
        for error in check.errors:
            self.line(f"  {error}")

    def looked(self, done: int, total: int) -> None:
        """How far the sources are."""
        if time.monotonic() - self.said_at >= LINE_INTERVAL_S:
            self.said_at = time.monotonic()
            self.line(f"{'':{NAME}}{done} of {total} tracks looked at")

    def listed(
        self, name: str, counts: Mapping[str, int], first: Sequence[ReportedProblem], report: str | None
    ) -> None:
        """What was found of tracks: how much by its kind, and the first of it."""
        total = sum(counts.values())
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
        self.line(f"\n{name:{NAME}}{total}: {kinds}")
        for problem in first:
            self.line(f"  {problem.track_id or '-':{TRACK}} {problem.kind:{KIND}} {problem.message}")
        if total > len(first):
            rest = "" if report else "; validate.report=FILE.csv writes all of them"
            self.line(f"  ... and {total - len(first)} more{rest}")

    def line(self, text: str) -> None:
        """Text as it is, however wide the terminal."""
        self.console.print(text.rstrip())


def parts_of(config: DictConfig) -> tuple[RestyleJob, ValidateSpec, int | None]:
    """The job to look at, how to look, and how many workers will share the work.

    Raises:
        RestyleError: a required value is missing, or ``validate.workers`` is below one.
    """
    job = job_of(config, given("cover"), read_presets(search_path()))
    look = config.validate
    workers = look.workers if look.workers is not None else job.cluster.workers
    if workers is not None and workers < 1:
        raise RequestError("out_of_range", "may not be below one", field="validate.workers", value=workers)
    return job, ValidateSpec(look.decode, look.rates_from, look.report), workers


@hydra.main(version_base="1.3", config_path="../conf", config_name="validate")
def _main(config: DictConfig) -> None:
    _entered.append(True)
    reporter, errors = ConsoleValidationReporter(plain_console()), plain_console(stderr=True)
    with raise_on_stop_signals() as status_of:
        try:
            job, spec, workers = parts_of(config)
            found = validate(job, spec, reporter)
        except RestyleError as error:
            errors.print(f"error: {error}", style="red")
            sys.exit(COULD_NOT_START)
        except KeyboardInterrupt as stopped:
            errors.print("interrupted: what was learnt of the sources is kept", style="red")
            sys.exit(status_of(stopped))
    conclude(found, job, spec, workers, reporter)
    sys.exit(OK if found.ok else INCOMPLETE if found.can_start else COULD_NOT_START)


def conclude(
    found: Validation,
    job: RestyleJob,
    spec: ValidateSpec,
    workers: int | None,
    reporter: ConsoleValidationReporter,
) -> None:
    """What is wrong with the tracks, and the plan."""
    if found.counts:
        reporter.listed("bad tracks", found.counts, found.first, spec.report)
    if found.noted:
        reporter.listed("notes", found.noted, found.first_noted, spec.report)
    if spec.report:
        reporter.line(f"{'report':{NAME}}{spec.report}")
    if found.forecast is None or found.space is None:
        reporter.line("\nthe job cannot start, so there is no plan yet")
        return
    reporter.line("")
    lines = plan_lines(found.forecast, found.space, job, spec, workers)
    if found.undecodable:
        lines["covers"] += f"; {found.undecodable} tracks will fail, since they do not decode"
    for name, text in lines.items():
        reporter.line(f"{name:{NAME}}{text}")


def plan_lines(
    forecast: Estimate, space: DiskSpace, job: RestyleJob, spec: ValidateSpec, workers: int | None
) -> dict[str, str]:
    """What the job would do, how long it takes and how much space, by what it is about."""
    places = [job.output, *([spec.rates_from] if spec.rates_from else [])]
    if forecast.worker_hours is None:
        dtype = assumed_dtype(job) + ("" if job.dtype else ", as on this machine; dtype= names another")
        hours = f"not known: no cover of this model ({dtype}) in {' or '.join(places)}"
        hours += "" if spec.rates_from else "; validate.rates_from=FOLDER names where there are"
    else:
        hours = f"{forecast.worker_hours:.2f} worker hours by measured rates"
        hours += f", {forecast.worker_hours / workers:.2f} h with {workers} workers" if workers else ""
    return {
        "covers": f"{forecast.items} of {forecast.tracks} tracks to make, {forecast.done} items are done",
        "audio": f"{forecast.audio_hours:.2f} h",
        "time": hours,
        "disk": str(space),
    }


def main() -> None:
    """Run, as ``launch`` says."""
    launch(_main, "validate", COULD_NOT_START, _entered)


if __name__ == "__main__":
    main()
