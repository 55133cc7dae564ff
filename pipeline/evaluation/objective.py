"""Objective: one score per cover, high where the song is kept and the style moved."""

import difflib
import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from acestep.errors import RequestError
from pipeline.metrics.registry import BY_NAME

KEPT, MOVED, SCORE = "objective/kept", "objective/moved", "objective/score"
DISTANCE = "timbre/mfcc_distance"
HALF_MOVED = 15.0  # dB: two genres of one song differ by about 29, two songs of one genre by 6
OUTCOME, REASON = "cover/outcome", "cover/reason"
OF_SONG = ("harmony/", "melody/", "structure/", "rhythm/")
WORTHLESS = ("copy", "lost", "failed")


@dataclass(frozen=True)
class Objective:
    """Definition of the score.

    kept: the measures whose mean is the share of the song that is kept.
    moved: the measure of how far the style moved: a timbre distance, or one of the group ``style``.
    half: the timbre distance that counts as moved by half; the measures of ``style`` are 0..1 already.

    Raises:
        RequestError: a measure is unknown, repeated or of the wrong kind, or ``half`` is not positive.
    """

    kept: tuple[str, ...] = ("harmony/chroma_excess", "melody/salience_excess")
    moved: str = DISTANCE
    half: float = HALF_MOVED

    def __post_init__(self) -> None:
        movers = [name for name in BY_NAME if name == DISTANCE or name.startswith("style/")]
        keepers = [
            name for name, measure in BY_NAME.items() if measure.better == "high" and name.startswith(OF_SONG)
        ]
        if not self.kept:
            remedy = "name at least one measure of what stayed of the song"
            raise RequestError("missing_value", "", remedy, "objective.kept")
        for name in self.kept:
            _check("objective.kept", name, keepers, "what stayed of the song")
        twice = [name for k, name in enumerate(self.kept) if name in self.kept[:k]]
        if twice:
            raise RequestError("conflict", f"names {twice[0]!r} twice", "name each measure once", "objective.kept")
        _check("objective.moved", self.moved, movers, "how far the style moved")
        if not (math.isfinite(self.half) and self.half > 0):
            reason = "is no distance"
            raise RequestError("invalid_value", reason, "give a positive number", "objective.half", self.half)


def score(rows: pa.Table, objective: Objective) -> pa.Table:
    """``objective/kept``, ``objective/moved`` and ``objective/score`` of each row, each 0..1 or null.

    The score is the harmonic mean of the others. It is 0 where the cover failed, lost the song or copied it, and
    null where a measure is missing or the cover was rejected.
    """
    kept = np.mean([np.clip(numbers(rows, name), 0, 1) for name in objective.kept], axis=0)
    moved = numbers(rows, objective.moved)
    if objective.moved == DISTANCE:
        moved = np.maximum(moved, 0)
        moved = moved / (moved + objective.half)
    moved = np.clip(moved, 0, 1)
    with np.errstate(invalid="ignore"):
        both = np.where(kept + moved == 0, 0.0, 2 * kept * moved / (kept + moved))
    worthless = pc.or_kleene(
        pc.equal(rows["status"], "failed"),
        pc.is_in(rows[OUTCOME], value_set=pa.array(WORTHLESS)),
    )
    rejected = pc.equal(rows["status"], "rejected")
    both = np.where(_flags(rejected), np.nan, np.where(_flags(worthless), 0.0, both))
    columns = {KEPT: kept, MOVED: moved, SCORE: both}
    return pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})


def numbers(rows: pa.Table, name: str) -> np.ndarray:
    """A column as float64 ``[rows]``; null and infinite values are NaN."""
    values = pc.cast(rows[name], pa.float64()).to_numpy()
    return np.where(np.isfinite(values), values, np.nan)


def _flags(values: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(values, False).to_numpy()


def _check(where: str, name: str, allowed: list[str], purpose: str) -> None:
    if name in allowed:
        return
    if name in BY_NAME:
        raise RequestError("invalid_value", f"{where} {name!r} does not say {purpose}", allowed=allowed)
    near = difflib.get_close_matches(name, allowed, 1, cutoff=0.0)
    raise RequestError("unknown_value", f"{where} {name!r} is unknown", f"did you mean {near[0]!r}?")
