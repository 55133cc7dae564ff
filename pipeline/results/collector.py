"""Collector of result rows: parts of finished and of refused rows; a receipt goes when its row is written."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.carried_columns import Meta, with_new_columns
from pipeline.results.journal import (
    LAST,
    RECEIPTS,
    TASK,
    Journal,
    delete_receipts,
    read_receipts,
    unwritten_receipts,
)
from pipeline.results.table import REJECTED, RESULTS, ResultWriter, finished_items
from pipeline.storage.store import Store


class ResultCollector:
    """Where result rows go, failed and refused ones apart; ``new`` counts them."""

    def __init__(self, output: Store):
        self.output = output
        self.results, self.rejected = ResultWriter(output, RESULTS), ResultWriter(output, REJECTED)
        self.journal = Journal(output)
        self.new = 0

    def add(self, table: pa.Table) -> None:
        """Take rows; they are written now and then."""
        self.new += len(table)
        self._take(table)

    def _take(self, table: pa.Table) -> None:
        refused = pc.equal(table["status"], "rejected")
        try:
            self.rejected.add(table.filter(refused))
        finally:  # older rows may fail to be written here, and these are still to be taken
            if self.results.add(table.filter(pc.invert(refused))):
                self.journal.written()

    def add_new(self, table: pa.Table) -> None:
        """Take rows from a worker."""
        self.add(table.drop_columns([TASK, LAST]))
        self.journal.seen(table)

    def adopt(self) -> None:
        """Take the rows of receipts that nobody wrote, such as an earlier launch's that was killed."""
        names = unwritten_receipts(self.output)
        known = finished_items(self.output, retry_failed=True) if names else ()
        for rows, taken in read_receipts(self.output, names, self.results.max_rows, known):
            self.results.add(rows)
            self.results.flush()
            delete_receipts(self.output, taken)
        self.output.delete_folder(RECEIPTS)

    def restate(self, outdated: Mapping[str, Meta]) -> None:
        """Write rows of finished items anew where the manifest says something else in the user's own columns."""
        if outdated:
            self._take(with_new_columns(self.output, outdated))

    def flush(self) -> None:
        """Write what waits."""
        try:
            self.rejected.flush()
        finally:
            self.results.flush()
        self.journal.written()
