"""Arrow tables behind a comparison, and the arrangement of covers by track, seed and setting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from acestep.sampling.setting import SETTING_FIELDS
from pipeline.evaluation.objective import OUTCOME
from pipeline.evaluation.statistics import (
    FEWEST_TRACKS,
    LEVEL,
    Floats,
    grouped,
    interval,
    mean_over,
    mean_within,
    sign_flip,
)

MAX_FOR_ALL_PAIRS = 20  # settings; beyond, only the pairs with the best one are listed
_CELLS = 4_000_000  # differences in memory at a time
_ALWAYS_LISTED = ("audio_cover_strength", "guidance_scale")
_LISTED = (*SETTING_FIELDS, "stage")

Indices = NDArray[np.int64]

_TEXT, _NUMBER, _COUNT = pa.string(), pa.float64(), pa.int64()
SETTINGS = pa.schema(
    [
        *((name, _TEXT) for name in ("setting_id", "setting_name", "measure")),
        *((name, _NUMBER) for name in ("mean", "sd")),
        *((name, _COUNT) for name in ("n", "tracks")),
        *((name, _NUMBER) for name in ("low", "high")),
    ]
)
PAIRS = pa.schema(
    [
        *((name, _TEXT) for name in ("setting_a", "setting_b", "measure")),
        *((name, _NUMBER) for name in ("difference", "low", "high", "p", "p_adjusted")),
        ("tracks", _COUNT),
        ("distinguishable", pa.bool_()),
        ("reason", _TEXT),
    ]
)


@dataclass(frozen=True)
class CoverLayout:
    """Position of each row in a table of units and settings; a unit is a seed of a track.

    unit, setting: of each row ``[rows]``.
    starts: the first unit of each track ``[tracks]``.
    """

    unit: Indices
    setting: Indices
    starts: Indices
    shape: tuple[int, int]

    def cells(self, values: Floats) -> Floats:
        """Values ``[rows]`` as ``[units, settings]``, NaN where a cell is empty."""
        known = ~np.isnan(values)
        place = self.unit[known] * self.shape[1] + self.setting[known]
        size = self.shape[0] * self.shape[1]
        counts = np.bincount(place, minlength=size)
        sums = np.bincount(place, values[known], minlength=size)
        return np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0).reshape(self.shape)

    def by_track(self, values: Floats) -> Floats:
        """Values ``[rows]`` as means ``[tracks, settings]``."""
        return mean_within(self.cells(values), self.starts)


def outcomes_of(rows: pa.Table) -> pa.Table:
    """``Comparison.outcomes``, ordered by strength, guidance and name."""
    ok, judged = pc.equal(rows["status"], "ok"), pc.fill_null(rows[OUTCOME], "")
    counted = {"failed": pc.or_(pc.invert(ok), pc.equal(judged, "failed"))}
    counted |= {name: pc.and_(ok, pc.equal(judged, name)) for name in ("ok", "copy", "lost")}
    columns = {name: rows[name] for name in ("setting_id", "t_switch", "cover_steps")}
    columns |= {name: pc.cast(flag, pa.int64()) for name, flag in counted.items()}
    columns["first"] = pa.array(np.arange(len(rows)))
    wanted = [("setting_id", "count"), ("first", "min"), ("t_switch", "max"), ("cover_steps", "max")]
    found = pa.table(columns).group_by("setting_id").aggregate([*wanted, *((name, "sum") for name in counted)])
    firsts = rows.take(found["first_min"])
    made = {"setting_id": found["setting_id"], "setting_name": firsts["setting_name"]}
    made |= {"covers": found["setting_id_count"]} | {name: found[f"{name}_sum"] for name in counted}
    for name in _LISTED:
        if name in rows.column_names and (name in _ALWAYS_LISTED or _varies(firsts[name])):
            # A list, such as explicit timesteps, cannot be a sort key.
            listed = pa.types.is_list(firsts[name].type)
            texts = [entry and str(entry) for entry in firsts[name].to_pylist()] if listed else None
            made[name] = firsts[name] if texts is None else pa.array(texts, pa.string())
    table = pa.table(made | {name: found[f"{name}_max"] for name in ("t_switch", "cover_steps")})
    return table.sort_by([(name, "ascending") for name in (*_ALWAYS_LISTED, "setting_name", "setting_id")])


def _varies(column: pa.ChunkedArray) -> bool:
    first, *others = column.to_pylist() or [None]
    return any(value != first for value in others)


def layout_of(rows: pa.Table, settings: Sequence[str]) -> CoverLayout:
    """Layout of rows, for settings in the given order and tracks in alphabetical order."""
    encoded = rows["track_id"].combine_chunks().dictionary_encode()
    rank = np.unique(np.asarray(encoded.dictionary.to_pylist(), dtype=str), return_inverse=True)[1]
    track = rank[encoded.indices.to_numpy()]
    seeds, seed = np.unique(pc.fill_null(rows["seed"], -1).to_numpy(), return_inverse=True)
    units, unit = np.unique(track * len(seeds) + seed, return_inverse=True)
    starts = np.unique(units // max(len(seeds), 1), return_index=True)[1]
    setting = pc.index_in(rows["setting_id"], value_set=pa.array(settings, pa.string())).to_numpy()
    return CoverLayout(unit, setting.astype(np.int64), starts, (len(units), len(settings)))


def describe(values: Floats, setting: Indices, by_track: Floats) -> dict[str, Any]:
    """The figures of ``Comparison.settings`` for one measure.

    Args:
        values, setting: of each cover ``[rows]``.
        by_track: the same values as means ``[tracks, settings]``.
    """
    known, count = ~np.isnan(values), by_track.shape[1]
    setting, values = setting[known], values[known]
    n = np.bincount(setting, minlength=count)
    centre = np.bincount(setting, values, count) / np.maximum(n, 1)
    squares = np.bincount(setting, (values - centre[setting]) ** 2, count)
    sd = np.where(n > 1, np.sqrt(squares / np.maximum(n - 1, 1)), np.nan)
    low, high = interval(by_track)
    tracks = (~np.isnan(by_track)).sum(0)
    return {"mean": mean_over(by_track), "sd": sd, "n": n, "tracks": tracks, "low": low, "high": high}


def compare_pairs(
    ids: Sequence[str], measure: str, layout: CoverLayout, cells: Floats, best: int | None
) -> pa.Table:
    """``Comparison.pairs`` for one measure, given as ``[units, settings]``.

    All pairs are tested, even those not listed, since the best setting was picked from all of them.
    """
    pairs = [(b, a) if b == best else (a, b) for a, b in combinations(range(len(ids)), 2)]
    listed = np.array([len(ids) <= MAX_FOR_ALL_PAIRS or a == best for a, _ in pairs], bool)
    if not listed.any():
        return PAIRS.empty_table()
    a, b = np.array(pairs).T
    parts, mean, tracks = [], np.empty(len(a)), np.empty(len(a), np.int64)
    step = max(1, _CELLS // len(cells))
    for first in range(0, len(a), step):
        part = slice(first, first + step)
        by_track = mean_within(cells[:, a[part]] - cells[:, b[part]], layout.starts)
        mean[part], tracks[part] = mean_over(by_track), (~np.isnan(by_track)).sum(0)
        parts.append(grouped(by_track))
    differences = np.concatenate(parts, axis=1)
    p, adjusted = sign_flip(differences)
    low, high = interval(differences[:, listed])
    tracks, adjusted = tracks[listed], adjusted[listed]
    return as_table(
        {
            "setting_a": [ids[k] for k in a[listed]],
            "setting_b": [ids[k] for k in b[listed]],
            "measure": [measure] * len(tracks),
            "difference": mean[listed],
            "low": low,
            "high": high,
            "p": p[listed],
            "p_adjusted": adjusted,
            "tracks": tracks,
            "distinguishable": pa.array(adjusted < 1 - LEVEL, mask=np.isnan(adjusted)),
            "reason": [too_few(n) for n in tracks],
        },
        PAIRS,
    )


def too_few(tracks: int) -> str:
    """Why ``tracks`` tracks in common give no verdict; "" where they give one."""
    if tracks >= FEWEST_TRACKS:
        return ""
    return f"{tracks} track{'' if tracks == 1 else 's'} in common; {FEWEST_TRACKS} are needed for a verdict"


def as_table(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """A table in which NaN becomes null."""
    made = {
        name: pa.array(values, from_pandas=True) if isinstance(values, np.ndarray) else values
        for name, values in columns.items()
    }
    return pa.table(made, schema=schema)
