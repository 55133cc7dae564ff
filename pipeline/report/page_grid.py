"""Grid of the listening page: its axes, and the labels of covers that share a cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from acestep.sampling.setting import SETTING_FIELDS
from pipeline.report.labels import SCORE, format_value

FIRST = ("audio_cover_strength", "guidance_scale")
PARAMETERS = (*FIRST, *(name for name in (*SETTING_FIELDS, "stage") if name not in FIRST))

Row = Mapping[str, Any]


def only_covers(rows: pa.Table) -> pa.Table:
    """The rows of covers, including failed ones; a row without a setting is a rejected track."""
    return rows.filter(pc.and_(pc.is_valid(rows["track_id"]), pc.is_valid(rows["setting_id"])))


@dataclass(frozen=True)
class Axes:
    """Names of the varied parameters: of the axes ``across`` and ``down``, None if fewer vary, and the others."""

    across: str | None
    down: str | None
    others: tuple[str, ...]


def axes(rows: pa.Table) -> Axes:
    """The first two parameters that vary, with strength and guidance first; else the settings' names."""
    varied = [name for name in PARAMETERS if name in rows.column_names and _varies(rows[name])]
    if not varied and _varies(rows["setting_name"]):
        varied = ["setting_name"]  # external covers, without known parameters
    across, down = [*varied, None, None][:2]
    return Axes(across, down, tuple(varied[2:]))


def _varies(column: pa.ChunkedArray) -> bool:
    return len({str(entry) for entry in column.to_pylist()}) > 1  # as text, since explicit timesteps are lists


def values_along(rows: Sequence[Row], axis: str | None) -> list[Any]:
    """The distinct values of a parameter, None first, then ascending; [None] without an axis."""
    if axis is None:
        return [None]
    found = {str(row[axis]): row[axis] for row in rows}
    return sorted(found.values(), key=lambda entry: (entry is not None, entry if entry is not None else 0))


def place(row: Row, axis: str | None, along: Sequence[Any]) -> int:
    """The index of a row's value along an axis."""
    return along.index(row[axis]) if axis else 0


def label(row: Row, others: Sequence[str]) -> str:
    """The label that distinguishes a cover within its cell, such as "shift 3, seed 7"."""
    seed = [] if row["seed"] is None else [f"seed {row['seed']}"]
    return ", ".join([*(format_value(name, row[name]) for name in others), *seed])


def setting_words(row: Row, grid: Axes) -> str:
    """A row's setting, such as "strength 0.30, guidance 9": all varied parameters, or strength and guidance."""
    names = [name for name in (grid.across, grid.down, *grid.others) if name]
    names = names or [name for name in FIRST if row.get(name) is not None]
    return ", ".join(format_value(name, row[name]) for name in names) or row["setting_name"]


def by_score(rows: Sequence[Row]) -> list[Row]:
    """Rows by score, the best first; those without a score last; ties by setting and seed."""
    return sorted(
        rows,
        key=lambda row: (
            -(-1.0 if row[SCORE] is None else row[SCORE]),
            row["setting_name"],
            -1 if row["seed"] is None else row["seed"],
        ),
    )


def median_seeds(rows: Sequence[Row]) -> list[Row]:
    """The cover of each setting with the (lower) median score of its seeds."""
    settings: dict[str, list[Row]] = {}
    for row in rows:
        settings.setdefault(row["setting_id"], []).append(row)
    return [by_score(seeds)[len(seeds) // 2] for seeds in settings.values()]
