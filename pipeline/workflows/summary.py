"""How a job ended, in numbers."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.worker.startup import StartUp

if TYPE_CHECKING:
    from pipeline.report.findings import Findings

WORK_COLUMNS = ("read_s", "condition_s", "denoise_s", "decode_s", "measure_s", "write_s")
SUMMARY_COLUMNS = (
    *("item_id", "track_id", "source", "caption", "setting_id", "setting_name", "status"),
    *("error_kind", "error_message", "audio_path", "duration_s", "source_notes", "finished_at", *WORK_COLUMNS),
)
SLOWEST = 5


@dataclass(frozen=True)
class Summary:
    """How a job ended: counts of all its items, whichever launch made them; ``new`` is of this launch.

    seconds: of this launch.
    noted: tracks with a note on their source, such as that it is silent, by the note's kind.
    by_kind: failed and rejected items by the kind of their error, the most frequent first.
    slowest: the covers with the most seconds of work (``work_s``), with track_id, setting_name and duration_s.
    start_up: of this launch's workers.
    remade: items made again whose audio files were gone or not whole.
    lost: items whose audio files went while the job ran; the next launch makes them.
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
    """Counts of a job's rows, those that are not ok, and the slowest of the others.

    Args:
        sought: items that were to be made again.
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


def count_kinds(problems: pa.Table) -> Counter[str]:
    """How many rows there are of each error kind, the most frequent first."""
    found = {entry["values"]: entry["counts"] for entry in problems["error_kind"].value_counts().to_pylist()}
    return Counter(dict(sorted(found.items(), key=lambda entry: (-entry[1], entry[0]))))


def count_noted(rows: pa.Table) -> Counter[str]:
    """How many tracks have a note of each kind on their source, the most frequent first."""
    kinds = rows["source_notes"]
    tracks = rows["track_id"].take(pc.list_parent_indices(kinds))
    each = pa.table({"kind": pc.list_flatten(kinds), "track_id": tracks})
    found = each.group_by(["kind", "track_id"]).aggregate([])["kind"].to_pylist()
    return Counter(dict(Counter(found).most_common()))


def slowest(rows: pa.Table, count: int = SLOWEST) -> pa.Table:
    """The covers that took the most work, the slowest first."""
    work: pa.ChunkedArray = pc.fill_null(rows[WORK_COLUMNS[0]], 0.0)
    for name in WORK_COLUMNS[1:]:
        work = pc.add(work, pc.fill_null(rows[name], 0.0))
    work = pc.if_else(pc.equal(rows["status"], "ok"), work, -1.0)
    told = rows.select(["track_id", "setting_name", "duration_s"]).append_column("work_s", work)
    found = first_rows(told, count, "work_s", "descending")
    return found.filter(pc.greater_equal(found["work_s"], 0.0))


def first_rows(rows: pa.Table, count: int, column: str, order: str) -> pa.Table:
    """What sorting by a column would put first, without sorting a million rows.

    Args:
        order: "ascending" or "descending".
    """
    if not len(rows):  # Arrow has no answer for none
        return rows
    return rows.take(pc.select_k_unstable(rows.select([column]), count, [(column, order)]))
