"""Reports a job on a terminal: the plan, its progress, and the summary."""

import time
from collections.abc import Callable

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from acestep.checkpoints.demo import ABOUT, VARIANTS
from pipeline.catalogue.grid import Setting, names_of
from pipeline.cluster.pool import Pool
from pipeline.planning.estimate import Estimate
from pipeline.planning.estimate import lines as forecast_lines
from pipeline.planning.items import ModelFacts
from pipeline.planning.plan import Plan
from pipeline.report.findings import FOLDER, PAGE
from pipeline.results.progress import Progress, in_words, kinds_in_words, rates_in_words
from pipeline.worker.startup import in_words as in_words_of_start
from pipeline.workflows.console_findings import print_findings
from pipeline.workflows.specs import RestyleJob
from pipeline.workflows.summary import Summary

# Intervals of progress lines in a log, in seconds: early lines for short jobs, few lines for long ones.
FIRST_LINE_S, BETWEEN_LINES_S, LINES_GROW = 10.0, 60.0, 1.5
MAX_PROBLEMS = 20
ENOUGH_FOR_SLOWEST = 5


def warn_on(console: Console) -> Callable[[str], None]:
    """A function that prints warnings on a console."""
    # Not wrapped, so that a command in the message can be copied.
    return lambda message: console.print(Text.assemble(("warning:", "yellow"), f" {message}"), soft_wrap=True)


class ConsoleReporter:
    """Prints a job: a progress bar on a terminal, occasional lines in a log.

    now: a clock, in seconds.
    begun: whether the plan was reported, so that covers may have been made.
    """

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic):
        self.console, self.now = console, now
        self.bar: Bar | None = None
        self.begun = False
        self.between_s = FIRST_LINE_S
        self.last_line = now()

    def planned(self, job: RestyleJob, plan: Plan, settings: list[Setting], model: ModelFacts, pool: Pool) -> None:
        self.begun = True
        where = (
            f"{pool.gpus_per_worker:g} GPU each" if pool.gpus_per_worker else f"CPU, {pool.threads} threads each"
        )
        self._fact("catalogue", job.name)
        self._fact("model", f"{model.name} ({model.fingerprint}, {model.dtype})")
        seeds = len({setting.seed for setting in settings})
        self._fact("settings", names_of(settings, 8) + (f" ({seeds} seeds each)" if seeds > 1 else ""))
        most = f" to {pool.most}" if pool.most > pool.workers else ""
        self._fact("cluster", pool.cluster)
        self._fact("workers", f"{pool.workers}{most} ({where})")
        todo = f"{plan.items} covers of {plan.tracks} tracks"
        self._fact("to do", todo + (f" ({plan.done} are done already)" if plan.done else ""))
        if plan.lost:
            gone = "were finished, and their audio files are gone or not whole; they are made again"
            self._fact("lost", f"{len(plan.lost)} of these {gone}")
        if plan.outdated:
            self._fact("columns", f"{len(plan.outdated)} finished rows are written again with columns of your own")
        if plan.set_aside:
            self._fact("set aside", f"{plan.set_aside} that cannot be run; listed at the end")
        if job.model in VARIANTS:
            self.console.print(ABOUT, style="dim")
        self.last_line = self.now()
        if self.console.is_terminal and plan.items:
            self.bar = Bar(
                TextColumn("restyling"),
                BarColumn(bar_width=16),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=self.console,
            )
            self.bar.add_task("restyle", total=plan.items, note="starting workers")
            self.bar.start()

    def _fact(self, name: str, value: str) -> None:
        self.console.print(f"{name:9}  {value}")

    def advanced(self, progress: Progress) -> None:
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=progress.done, note=rates_in_words(progress))
        elif self.now() - self.last_line >= self.between_s:
            self.last_line = self.now()
            self.between_s = min(BETWEEN_LINES_S, self.between_s * LINES_GROW)
            self.console.print(in_words(progress))

    def warned(self, message: str) -> None:
        warn_on(self.console)(message)

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def foreseen(self, found: Estimate) -> None:
        for name, text in forecast_lines(found).items():
            self.console.print(f"{name:8} {text}")
        self._problems(found.problems)

    def _problems(self, problems: pa.Table) -> None:
        for row in problems.slice(0, MAX_PROBLEMS).to_pylist():
            self.console.print(
                f"  {row['status']} {row['track_id'] or '(no track_id)'} {row['setting_name'] or ''}: "
                f"{row['error_kind']}: {row['error_message']}",
            )
        if len(problems) > MAX_PROBLEMS:
            self.console.print(f"  ... and {len(problems) - MAX_PROBLEMS} more")

    def _slowest(self, covers: pa.Table) -> None:
        self.console.print("the slowest covers:")
        for row in covers.to_pylist():
            self.console.print(
                f"  {row['track_id']} {row['setting_name']}: {row['work_s']:.1f} s of work for "
                f"{row['duration_s']:.1f} s of audio",
            )

    def closed(self, job: RestyleJob, summary: Summary) -> None:
        """Print the summary and where the results are."""
        self.stop()
        ended = "all done" if summary.complete else "done, with problems"
        self.console.print(f"{job.name}: {ended}", style="bold")
        self.console.print(
            f"{summary.ok} ok, {summary.failed} failed, {summary.rejected} rejected, {summary.new} new; "
            f"{summary.audio_s:.0f} s of audio in {summary.seconds:.0f} s",
            style="green" if summary.complete else "red",
        )
        if summary.remade:
            self.console.print(f"made again: {summary.remade} covers whose audio files were gone or not whole")
        if summary.lost:
            self.console.print(
                f"lost: the audio files of {summary.lost} covers were deleted or cut while the job ran; the same "
                "command makes them again",
                style="red",
            )
        if summary.by_kind:
            self.console.print(f"problems: {kinds_in_words(summary.by_kind)}")
        self._problems(summary.problems)
        if summary.noted:
            self.console.print(
                f"notes on sources (tracks): {kinds_in_words(summary.noted)}; the rows' notes say more"
            )
        if summary.ok > ENOUGH_FOR_SLOWEST:
            self._slowest(summary.slowest)
        if summary.findings is not None:
            print_findings(self.console, summary.findings)
        if summary.start_up.workers:
            self.console.print(f"start-up {in_words_of_start(summary.start_up)}")
        lines = {
            "audio": f"{job.output}/audio",
            "results": f"{job.output}/results",
            "job": f"{job.output}/job.json",
        }
        if summary.findings is not None and PAGE in summary.findings.files:
            lines["listen"] = f"{job.output}/{FOLDER}/{PAGE}"
        lines |= summary.tracking
        for name, value in lines.items():
            self.console.print(f"{name:8} {value}")


class RoundReporter(ConsoleReporter):
    """Prints one line per round of a tuning job."""

    def planned(self, job: RestyleJob, plan: Plan, settings: list[Setting], model: ModelFacts, pool: Pool) -> None:
        self.begun = True
        done = f", {plan.done} are there already" if plan.done else ""
        text = f"  making {plan.items} covers of {plan.tracks} tracks{done}"
        self.console.print(text)
