"""Problems of a catalogue: counted, the first few kept, all of them written; never all held."""

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
    """Why a track cannot run, or what is worth knowing of it; without ``track_id`` and ``source``, of the job."""

    track_id: str
    source: str
    kind: str
    message: str


class ProblemLog:
    """Takes problems one by one; a context manager, on whose leaving the report is complete.

    counts: tracks with a problem, by its kind; first: the first ``KEPT`` of them.
    noted, first_noted: the same of tracks that can be run, and of which something is worth knowing.
    """

    def __init__(self, report: str | None = None):
        """Open the report, so that one that cannot be written is known before hours of looking.

        Args:
            report: a ``.csv`` or ``.parquet`` file to write every problem to, local or on any filesystem.

        Raises:
            RequestError: it has another ending, or cannot be written.
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
            raise RequestError(f"report {report!r}: unknown kind of table; end it in .csv or .parquet")
        try:
            filesystem, path = locate(report)
            self.stream = filesystem.open_output_stream(path)
        except OSError as error:
            raise RequestError(f"report {report}: cannot be written ({error})") from error
        self.writer = WRITERS[kind](self.stream, SCHEMA)

    def add(self, problem: ReportedProblem) -> None:
        """Take the problem of a track."""
        self.counts[problem.kind] += 1
        if len(self.first) < KEPT:
            self.first.append(problem)
        self._report(problem)

    def remark(self, note: ReportedProblem) -> None:
        """Take what is worth knowing of a track that can be run."""
        self.noted[note.kind] += 1
        if len(self.first_noted) < KEPT:
            self.first_noted.append(note)
        self._report(note)

    def note(self, part: str, message: str) -> None:
        """Take a problem of the job itself, named by its part: only the report tells it, as a row of no track."""
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
