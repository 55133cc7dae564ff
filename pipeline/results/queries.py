"""Queries of result rows that summaries, progress and tracking share."""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

WORK_COLUMNS = ("read_s", "condition_s", "denoise_s", "decode_s", "measure_s", "write_s")
SUMMARY_COLUMNS = (
    *("item_id", "track_id", "source", "caption", "setting_id", "setting_name", "status"),
    *("error_kind", "error_message", "audio_path", "duration_s", "source_notes", "finished_at", *WORK_COLUMNS),
)
SLOWEST = 5


def count_kinds(problems: pa.Table) -> Counter[str]:
    """Rows per error kind, the most frequent first."""
    found = {entry["values"]: entry["counts"] for entry in problems["error_kind"].value_counts().to_pylist()}
    return Counter(dict(sorted(found.items(), key=lambda entry: (-entry[1], entry[0]))))


def count_noted(rows: pa.Table) -> Counter[str]:
    """Tracks per kind of source note, the most frequent first."""
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
    work_rows = rows.select(["track_id", "setting_name", "duration_s"]).append_column("work_s", work)
    found = first_rows(work_rows, count, "work_s", "descending")
    return found.filter(pc.greater_equal(found["work_s"], 0.0))


def first_rows(rows: pa.Table, count: int, column: str, order: str) -> pa.Table:
    """The first ``count`` rows in the order of a column, without a full sort.

    Args:
        order: "ascending" or "descending".
    """
    if not len(rows):  # select_k_unstable fails on an empty table
        return rows
    return rows.take(pc.select_k_unstable(rows.select([column]), count, [(column, order)]))
