"""``jobs.restyle`` with workers that log what they generate, in a file that owes nothing to the job's own books.

    GENERATIONS=log.tsv PACE_S=0.5 python -m tests.cluster.driver manifest=... output=...

A line of the log is: event, item_id, pid, seconds since the epoch. ``begun`` and ``made`` stand around the
generation itself, ``left`` after everything that is done for the item. ``PACE_S`` is the least time of one: the
miniature model is faster than it takes to kill anything.
"""

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import jobs.restyle
from acestep.generation.chain import Chain, Cover
from acestep.generation.stages import Stage
from pipeline.worker.restyle_worker import CoverTask, RestyleWorker
from pipeline.workflows import restyle


class LoggingWorker(RestyleWorker):
    """A worker whose generations can be counted. Shipped by value, with the place of its log."""

    log = os.environ.get("GENERATIONS", "")
    pace_s = float(os.environ.get("PACE_S", "0"))

    def cover(self, item_id: str, chain: Chain, stages: tuple[Stage, ...], seed: int) -> Cover:
        self._note("begun", item_id)
        until = time.monotonic() + self.pace_s
        made = super().cover(item_id, chain, stages, seed)
        time.sleep(max(0.0, until - time.monotonic()))
        self._note("made", item_id)
        return made

    def _item(self, task: CoverTask) -> dict[str, Any] | None:
        made = super()._item(task)
        self._note("left", task.row["item_id"])
        return made

    def _note(self, event: str, item_id: str) -> None:
        # One write of a short line at the end of a file is whole, whoever else writes there.
        with Path(self.log).open("a") as log:
            log.write(f"{event}\t{item_id}\t{os.getpid()}\t{time.time():.3f}\n")


if __name__ == "__main__":
    restyle.run = partial(restyle.run, worker_class=LoggingWorker)
    jobs.restyle.main()
