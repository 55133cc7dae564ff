"""Collects result rows: writes accepted and rejected rows apart and removes the receipts of written rows."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.carried_columns import Meta, with_new_columns
from pipeline.results.finished_items import finished_items
from pipeline.results.journal import (
    LAST,
    RECEIPTS,
    TASK,
    Journal,
    delete_receipts,
    read_receipts,
    unwritten_receipts,
)
from pipeline.results.reader import REJECTED, RESULTS
from pipeline.results.writer import ResultWriter
from pipeline.storage.store import Store


class ResultCollector:
    """Writes accepted rows to ``results`` and rejected ones to ``rejected``; ``new`` counts added rows."""

    def __init__(self, output: Store):
        self.output = output
        self.results, self.rejected = ResultWriter(output, RESULTS), ResultWriter(output, REJECTED)
        self.journal = Journal(output)
        self.new = 0

    def add(self, table: pa.Table) -> None:
        """Add rows; they are written in parts."""
        self.new += len(table)
        self._take(table)

    def _take(self, table: pa.Table) -> None:
        rejected = pc.equal(table["status"], "rejected")
        try:
            self.rejected.add(table.filter(rejected))
        finally:  # a failure to write earlier rows must not lose these
            if self.results.add(table.filter(pc.invert(rejected))):
                self.journal.written()

    def add_new(self, table: pa.Table) -> None:
        """Add rows of a worker, and record them in the journal."""
        self.add(table.drop_columns([TASK, LAST]))
        self.journal.seen(table)

    def recover_receipts(self) -> None:
        """Write the rows of receipts that an interrupted launch left, and remove the receipts."""
        names = unwritten_receipts(self.output)
        known = finished_items(self.output, retry_failed=True) if names else ()
        for rows, taken in read_receipts(self.output, names, self.results.max_rows, known):
            self.results.add(rows)
            self.results.flush()
            delete_receipts(self.output, taken)
        self.output.delete_folder(RECEIPTS)

    def update_columns(self, outdated: Mapping[str, Meta]) -> None:
        """Write rows of finished items again where the manifest's own columns have changed."""
        if outdated:
            self._take(with_new_columns(self.output, outdated))

    def flush(self) -> None:
        """Write all buffered rows."""
        try:
            self.rejected.flush()
        finally:
            self.results.flush()
        self.journal.written()
