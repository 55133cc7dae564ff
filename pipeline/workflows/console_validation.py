"""Reports a validation on a terminal: each check, problems of tracks, and the plan."""

import time
from collections.abc import Mapping, Sequence

from rich.console import Console

from pipeline.catalogue.problem_report import ReportedProblem
from pipeline.planning.disk_space import DiskSpace
from pipeline.planning.estimate import Estimate
from pipeline.workflows.restyle_job import assumed_dtype
from pipeline.workflows.specs import RestyleJob, ValidateSpec
from pipeline.workflows.validate import PartCheck, Validation

LINE_INTERVAL_S = 10.0
NAME, KIND, TRACK = 15, 20, 24  # widths of columns


class ConsoleValidationReporter:
    """Prints each check when it ends, and the progress of the sources."""

    def __init__(self, console: Console):
        self.console = console
        self.said_at = time.monotonic()

    def checked(self, check: PartCheck) -> None:
        """Print a check, and each reason why the job cannot start."""
        self.line(f"{check.name:{NAME}}{'ok' if check.ok else 'problem':9}{'' if check.errors else check.said}")
        for error in check.errors:
            self.line(f"  {error}")

    def looked(self, done: int, total: int) -> None:
        """Print the progress of the sources."""
        if time.monotonic() - self.said_at >= LINE_INTERVAL_S:
            self.said_at = time.monotonic()
            self.line(f"{'':{NAME}}{done} of {total} tracks looked at")

    def listed(
        self, name: str, counts: Mapping[str, int], first: Sequence[ReportedProblem], report: str | None
    ) -> None:
        """Print problems or notes of tracks: counts by kind, and the first of them."""
        total = sum(counts.values())
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
        self.line(f"\n{name:{NAME}}{total}: {kinds}")
        for problem in first:
            self.line(f"  {problem.track_id or '-':{TRACK}} {problem.kind:{KIND}} {problem.message}")
        if total > len(first):
            rest = "" if report else "; validate.report=FILE.csv writes all of them"
            self.line(f"  ... and {total - len(first)} more{rest}")

    def line(self, text: str) -> None:
        """Print text without wrapping."""
        self.console.print(text.rstrip())


def conclude(
    found: Validation,
    job: RestyleJob,
    spec: ValidateSpec,
    workers: int | None,
    reporter: ConsoleValidationReporter,
) -> None:
    """Print the problems of the tracks, and the plan."""
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
    """Estimated work, time and disk space of the job, by topic."""
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
