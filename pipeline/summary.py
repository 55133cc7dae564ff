"""How a job ended, in numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

SUMMARY_COLUMNS = (
    *("item_id", "track_id", "source", "caption", "setting_id", "setting_name", "status"),
    *(
        "error_kind",
        "error_message",
        "audio_path",
        "duration_s",
        "condition_s",
        "denoise_s",
        "decode_s",
        "write_s",
    ),
)


@dataclass(frozen=True)
class Summary:
    """How a job ended: counts of all its items, whichever launch made them; ``new`` is of this launch."""

    ok: int
    failed: int
    rejected: int
    new: int
    audio_s: float
    seconds: float
    problems: pa.Table
    tracking: Mapping[str, str]

    @property
    def complete(self) -> bool:
        return not self.failed and not self.rejected


def summarize(rows: pa.Table, new: int, seconds: float) -> Summary:
    """Counts of a job's rows, and those that are not ok."""
    counts = {entry["values"]: entry["counts"] for entry in rows["status"].value_counts().to_pylist()}
    problems = rows.filter(pc.not_equal(rows["status"], "ok"))
    return Summary(
        ok=counts.get("ok", 0),
        failed=counts.get("failed", 0),
        rejected=counts.get("rejected", 0),
        new=new,
        audio_s=pc.sum(rows["duration_s"]).as_py() or 0.0,
        seconds=seconds,
        problems=problems,
        tracking={},
    )
