"""Selects the best cover of every track, over seeds and settings, and copies it to an export folder."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.csv

from acestep.errors import RequestError
from pipeline.catalogue.own_columns import META, with_columns_of
from pipeline.catalogue.track_ids import file_name_key, is_device
from pipeline.evaluation.judging import judge, measured_rows, run_chance_level
from pipeline.evaluation.selection import select
from pipeline.results.repair import check_parts
from pipeline.storage.audio_files import fetch_cover
from pipeline.storage.csv_escaping import as_cells
from pipeline.storage.lease import hold_lease
from pipeline.storage.store import Store, open_output, open_store
from pipeline.workflows.specs import SelectJob

TABLE = "winners.csv"


def select_winners(job: SelectJob) -> pa.Table:
    """Copy each track's best cover to ``<track_id>.<format>`` in the export folder, with a table.

    Returns:
        See ``pipeline.evaluation.selection.select``, with the additional column ``file`` (name of the copy, or
        null with a ``reason``) and the user's own columns.

    Raises:
        RequestError: no cover of the folder was measured, the export folder is the same, or it is not writable.
        HeldError: another launch writes into the export folder.
    """
    output = open_store(job.output)
    if open_store(job.export).root == output.root:
        remedy = "name another one"
        raise RequestError("invalid_value", "is the folder that is chosen from", remedy, "export", job.export)
    check_parts(output)
    rows = measured_rows(output, job.output)
    with hold_lease(open_output(job.export), f"export {job.export}") as export:
        winners = select(judge(rows, run_chance_level(output, rows), job.objective), job.objective)
        paths = dict(zip(rows["item_id"].to_pylist(), rows["audio_path"].to_pylist(), strict=True))
        taken: dict[str, str] = {}
        copied = [_copied(output, export, row, paths.get(row["item_id"]), taken) for row in winners.to_pylist()]
        winners = _with_copies(winners, copied)
        winners = with_columns_of(winners, _own_columns(rows, winners["track_id"]))
        buffer = io.BytesIO()
        pyarrow.csv.write_csv(as_cells(winners), buffer)
        export.write(TABLE, buffer.getvalue())
    return winners


def _with_copies(winners: pa.Table, copied: list[tuple[str | None, str | None]]) -> pa.Table:
    winners = winners.set_column(
        winners.column_names.index("reason"), "reason", pa.array([reason for _, reason in copied], pa.string())
    )
    return winners.append_column("file", pa.array([file for file, _ in copied], pa.string()))


def _own_columns(rows: pa.Table, track_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """The user's own columns of some tracks, from the newest row of each."""
    newest = {track_id: place for place, track_id in enumerate(rows["track_id"].to_pylist())}
    return rows[META].take(pa.array([newest[track_id] for track_id in track_ids.to_pylist()], pa.int64()))


def _copied(
    output: Store, export: Store, row: dict[str, Any], path: str | None, taken: dict[str, str]
) -> tuple[str | None, str | None]:
    """The name of the copy, or None and the reason.

    Args:
        taken: ids of tracks with a copy, by ``file_name_key``.
    """
    if path is None:
        return None, row["reason"]
    if is_device(row["track_id"]):
        return None, f"{row['track_id']!r} names a device on Windows, not a file"
    other = taken.setdefault(file_name_key(row["track_id"]), row["track_id"])
    if other != row["track_id"]:
        return None, (
            f"{row['track_id']!r} names the same file as {other!r} where case and the form of letters do not count"
        )
    try:
        content = fetch_cover(output, path)
    except OSError as error:
        return None, f"its best cover {path} cannot be read: {error}"
    name = f"{row['track_id']}.{path.rsplit('.', 1)[-1]}"
    export.write(name, content)
    return name, row["reason"]
