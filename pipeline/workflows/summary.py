"""Summary of a finished job."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.queries import count_kinds, count_noted, slowest
from pipeline.worker.startup import StartUp

if TYPE_CHECKING:
    from pipeline.report.findings import Findings


@dataclass(frozen=True)
class Summary:
    """The result of a job: counts over all of its items, of any launch; ``new`` counts this launch.

    seconds: of this launch.
    noted: tracks with a note on their source, such as that it is silent, by the note's kind.
    by_kind: failed and rejected items by error kind, the most frequent first.
    slowest: the covers with the most seconds of work (``work_s``), with track_id, setting_name and duration_s.
    start_up: of this launch's workers.
    remade: items made again because their audio files were missing or truncated.
    lost: items whose audio files disappeared during the job; the next launch makes them again.
    """

    ok: int
    failed: int
    rejected: int
    new: int
    audio_s: float
    seconds: float
    problems: pa.Table
    by_kind: Mapping[str, int]
    noted: Mapping[str, int]
    slowest: pa.Table
    tracking: Mapping[str, str]
    findings: "Findings | None" = None
    start_up: StartUp = field(default_factory=StartUp)
    remade: int = 0
    lost: int = 0

    @property
    def complete(self) -> bool:
        return not (self.failed or self.rejected or self.lost)


def summarize(rows: pa.Table, new: int, seconds: float, sought: Collection[str] = (), lost: int = 0) -> Summary:
    """Summarize the rows of a job.

    Args:
        sought: items to make again.
    """
    counts = {entry["values"]: entry["counts"] for entry in rows["status"].value_counts().to_pylist()}
    ok = pc.equal(rows["status"], "ok")
    problems = rows.filter(pc.invert(ok))
    return Summary(
        ok=counts.get("ok", 0),
        failed=counts.get("failed", 0),
        rejected=counts.get("rejected", 0),
        new=new,
        audio_s=pc.sum(rows["duration_s"]).as_py() or 0.0,
        seconds=seconds,
        problems=problems,
        by_kind=count_kinds(problems),
        noted=count_noted(rows),
        slowest=slowest(rows),
        tracking={},
        remade=sum(pc.is_in(rows["item_id"].filter(ok), pa.array(sought, pa.string())).to_pylist()),
        lost=lost,
    )
