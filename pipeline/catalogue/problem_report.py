"""Count problems of a catalogue by kind and stream them to a CSV or Parquet report."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from acestep.errors import RequestError
from acestep.redaction import redacted_values
from pipeline.storage.csv_escaping import as_cells
from pipeline.storage.store import locate

KEPT = 20
BATCH_ROWS = 8192
SCHEMA = pa.schema([(name, pa.string()) for name in ("track_id", "source", "kind", "message")])
WRITERS: dict[str, Any] = {"csv": pyarrow.csv.CSVWriter, "parquet": pq.ParquetWriter}


@dataclass(frozen=True)
class ReportedProblem:
    """A problem or note about a track; about the job if ``track_id`` and ``source`` are empty."""

    track_id: str
    source: str
    kind: str
    message: str


class ProblemLog:
    """Collects problems; a context manager that completes the report on exit.

    counts, first: number of problems by kind, and the first ``KEPT`` of them.
    noted, first_noted: the same for notes about usable tracks.
    """

    def __init__(self, report: str | None = None):
        """Open the report early, to fail before hours of checking if it cannot be written.

        Args:
            report: path or URI of a ``.csv`` or ``.parquet`` file for all problems.

        Raises:
            RequestError: it has another extension, or cannot be written.
        """
        self.counts: Counter[str] = Counter()
        self.first: list[ReportedProblem] = []
        self.noted: Counter[str] = Counter()
        self.first_noted: list[ReportedProblem] = []
        self.waiting: list[ReportedProblem] = []
        self.stream = self.writer = None
        self.is_csv = report is not None and report.lower().endswith(".csv")
        if report is None:
            return
        kind = report.rsplit(".", 1)[-1].lower()
        if kind not in WRITERS:
            remedy = "end it in .csv or .parquet"
            raise RequestError("unknown_value", "is an unknown kind of table", remedy, "report", report)
        try:
            filesystem, path = locate(report)
            self.stream = filesystem.open_output_stream(path)
        except OSError as error:
            reason = f"cannot be written ({error})"
            raise RequestError("not_writable", reason, field="report", value=report) from error
        self.writer = WRITERS[kind](self.stream, SCHEMA)

    def add(self, problem: ReportedProblem) -> None:
        self.counts[problem.kind] += 1
        if len(self.first) < KEPT:
            self.first.append(problem)
        self._report(problem)

    def remark(self, note: ReportedProblem) -> None:
        """Record a note about a usable track."""
        self.noted[note.kind] += 1
        if len(self.first_noted) < KEPT:
            self.first_noted.append(note)
        self._report(note)

    def note(self, part: str, message: str) -> None:
        """Write a problem of the job itself to the report, with ``part`` as its kind."""
        self._report(ReportedProblem("", "", part, message))

    def _report(self, problem: ReportedProblem) -> None:
        if self.writer is not None:
            self.waiting.append(problem)
            if len(self.waiting) >= BATCH_ROWS:
                self._write()

    def _write(self) -> None:
        if self.writer is not None and self.waiting:
            table = pa.Table.from_pylist([redacted_values(p) for p in self.waiting], schema=SCHEMA)
            self.writer.write_table(as_cells(table) if self.is_csv else table)
            self.waiting = []

    def __enter__(self) -> "ProblemLog":
        return self

    def __exit__(self, *raised: object) -> None:
        if self.writer is not None and self.stream is not None:
            self._write()
            self.writer.close()
            self.stream.close()
