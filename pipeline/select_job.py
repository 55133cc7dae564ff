"""The best cover of every track: chosen among its seeds and settings, and copied to a folder of their own."""

import io
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.csv

from pipeline.findings import chance, judged, measured_rows
from pipeline.loading import fetch_cover
from pipeline.objective import Objective
from pipeline.selection import select
from pipeline.storage import open_store

TABLE = "winners.csv"


@dataclass(frozen=True)
class SelectJob:
    """What to choose from, and where to put it.

    output: a folder of ``jobs.restyle`` or ``jobs.measure``; export: the folder for the winners.
    """

    output: str
    export: str
    objective: Objective = field(default_factory=Objective)


def select_winners(job: SelectJob) -> pa.Table:
    """Choose, and copy each track's best cover to ``<track_id>.<format>`` of the export folder, with a table.

    Returns:
        See ``pipeline.selection.select``, with ``file`` besides: the copy's name.

    Raises:
        RequestError: no cover of the folder was measured.
    """
    output, export = open_store(job.output), open_store(job.export)
    rows = measured_rows(output, job.output)
    winners = select(judged(rows, chance(output, rows), job.objective), job.objective)
    paths = dict(zip(rows["item_id"].to_pylist(), rows["audio_path"].to_pylist(), strict=True))
    files: list[str | None] = []
    for row in winners.to_pylist():
        path = paths.get(row["item_id"])
        files.append(None if path is None else f"{row['track_id']}.{path.rsplit('.', 1)[-1]}")
        if path is not None:
            export.write(str(files[-1]), fetch_cover(output, path))
    winners = winners.append_column("file", pa.array(files, pa.string()))
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(winners, buffer)
    export.write(TABLE, buffer.getvalue())
    return winners
