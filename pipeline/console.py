"""What a person at a terminal sees of a job: what will run, how far it is, how it ended."""

import time

import pyarrow as pa
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from acestep.demo import VARIANTS
from pipeline.cluster import Pool
from pipeline.forecast import Forecast
from pipeline.forecast import lines as forecast_lines
from pipeline.items import ModelFacts
from pipeline.job import RestyleJob
from pipeline.plan import Plan
from pipeline.settings import Setting
from pipeline.summary import Summary

PLAIN_INTERVAL_S = 10.0
MOST_PROBLEMS = 20


class ConsoleReporter:
    """Prints a job calmly: a bar on a terminal, a line now and then in a log."""

    def __init__(self, console: Console):
        self.console = console
        self.progress: Progress | None = None
        self.total = self.done = self.bad = 0
        self.audio_s = 0.0
        self.started = self.last_line = time.monotonic()

    def planned(self, job: RestyleJob, plan: Plan, settings: list[Setting], model: ModelFacts, pool: Pool) -> None:
        """Say what will run."""
        where = (
            f"{pool.gpus_per_worker:g} GPU each" if pool.gpus_per_worker else f"CPU, {pool.threads} threads each"
        )
        facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        facts.add_row("catalogue", escape(job.name))
        facts.add_row("model", f"{escape(model.name)} ({model.fingerprint}, {model.dtype})")
        facts.add_row(
            "settings",
            ", ".join(setting.name for setting in settings[:8]) + ("" if len(settings) <= 8 else ", ..."),
        )
        facts.add_row("workers", f"{pool.workers} ({where})")
        todo = f"{plan.items} covers of {len(plan.rows)} tracks"
        facts.add_row("to do", todo + (f" ({plan.done} are done already)" if plan.done else ""))
        bad = len(plan.failed) + len(plan.rejected)
        if bad:
            facts.add_row("set aside", f"{bad} that cannot be run; listed at the end")
        self.console.print(facts)
        if job.model in VARIANTS:
            self.console.print(
                "[dim]The built-in miniature model has random weights: it proves the pipeline, not the music. "
                "model=turbo fetches and uses the published weights.[/dim]"
            )
        self.total = plan.items
        self.started = self.last_line = time.monotonic()
        if self.console.is_terminal and plan.items:
            self.progress = Progress(
                TextColumn("restyling"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
            )
            self.progress.add_task("restyle", total=plan.items, note="starting workers")
            self.progress.start()

    def advanced(self, table: pa.Table) -> None:
        """Say how far it is."""
        self.done += len(table)
        self.bad += sum(status != "ok" for status in table["status"].to_pylist())
        self.audio_s += sum(table["duration_s"].drop_null().to_pylist())
        elapsed = time.monotonic() - self.started
        note = f"{self.audio_s / elapsed:.1f} x real time" + (f", {self.bad} failed" if self.bad else "")
        if self.progress is not None:
            self.progress.update(self.progress.task_ids[0], completed=self.done, note=note)
        elif time.monotonic() - self.last_line >= PLAIN_INTERVAL_S:
            self.last_line = time.monotonic()
            left = elapsed / self.done * (self.total - self.done)
            self.console.print(f"{self.done} of {self.total} covers, {elapsed:.0f} s, {left:.0f} s to go, {note}")

    def warned(self, message: str) -> None:
        """Say what went wrong without stopping."""
        self.console.print(f"[yellow]warning:[/yellow] {escape(message)}", highlight=False)

    def stop(self) -> None:
        """Take the bar away."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def foreseen(self, found: Forecast) -> None:
        """Say what a job would do."""
        for name, text in forecast_lines(found).items():
            self.console.print(f"{name:8} {text}", markup=False, highlight=False)
        self._problems(found.problems)

    def _problems(self, problems: pa.Table) -> None:
        for row in problems.slice(0, MOST_PROBLEMS).to_pylist():
            self.console.print(
                f"  {row['status']} {row['track_id'] or '(no track_id)'} {row['setting_name'] or ''}: "
                f"{row['error_kind']}: {row['error_message']}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        if len(problems) > MOST_PROBLEMS:
            self.console.print(f"  ... and {len(problems) - MOST_PROBLEMS} more")

    def closed(self, job: RestyleJob, summary: Summary) -> None:
        """Say how it ended and where everything is."""
        self.stop()
        table = Table(title=f"{escape(job.name)}: {'all done' if summary.complete else 'done, with problems'}")
        for heading in ("ok", "failed", "rejected", "new", "audio", "took"):
            table.add_column(heading, justify="right")
        table.add_row(
            f"[green]{summary.ok}[/green]",
            f"[red]{summary.failed}[/red]" if summary.failed else "0",
            f"[red]{summary.rejected}[/red]" if summary.rejected else "0",
            str(summary.new),
            f"{summary.audio_s:.0f} s",
            f"{summary.seconds:.0f} s",
        )
        self.console.print(table)
        self._problems(summary.problems)
        lines = {
            "audio": f"{job.output}/audio",
            "results": f"{job.output}/results",
            "job": f"{job.output}/job.json",
        }
        lines |= (
            {"runs": summary.tracking["ui"], "compare": summary.tracking["compare"]} if summary.tracking else {}
        )
        for name, value in lines.items():
            self.console.print(f"{name:8} {value}", markup=False, highlight=False, soft_wrap=True)
