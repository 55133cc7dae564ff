"""Search for the best setting: coordinate search with successive halving over strength and guidance.

Every round gives its settings covers of the same tracks and seeds, and only the better ones go on to more covers
(successive halving, Jamieson and Talwalkar 2016): strengths, then guidances, then strengths again, then the
neighbours, then the finalists on all covers. A round is one call of ``evaluate``, since a call is a cluster job.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from acestep.errors import RequestError
from pipeline.evaluation.statistics import FEWEST_TRACKS, LEVEL
from pipeline.evaluation.tuning_trials import Cell, Evaluate, Trial, Trials, check_sample

__all__ = ["Evaluate", "SearchSpace", "Trial", "TuningResult", "TuningRound", "tune"]

BASELINE: Cell = (0.5, 8.0)
# Share of the budget that may be spent by the end of each round.
ROW, BETTER_HALF, COLUMN, ROW_AGAIN, AROUND, COMMIT = 0.3, 0.4, 0.6, 0.7, 0.85, 1.0
MAX_FINALISTS = 6
# Weight of the covers of a neighbouring strength or guidance in a cell's estimate. Scores change slowly along both
# axes, and more slowly along guidance; without the neighbours a shallow optimum is lost in the noise.
NEXT_STRENGTH, NEXT_GUIDANCE = 0.1, 0.3
_SEED = 20_240_501


@dataclass(frozen=True)
class SearchSpace:
    """The grid to search, each axis ascending. For models without guidance it has one value."""

    strengths: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    guidances: tuple[float, ...] = (3.0, 5.0, 7.0, 8.0, 9.0, 11.0, 13.0)

    def __post_init__(self) -> None:
        for name, values in (("strengths", self.strengths), ("guidances", self.guidances)):
            if not values or any(a >= b for a, b in pairwise(values)):
                remedy = "give at least one value, rising"
                raise RequestError("invalid_value", "cannot be searched", remedy, field=name, value=list(values))

    @property
    def cells(self) -> int:
        """Number of settings in the grid."""
        return len(self.strengths) * len(self.guidances)

    def around(self, cell: Cell, strengths: int, guidances: int) -> list[Cell]:
        """The cells within a number of steps along each axis."""
        across, down = self.strengths.index(cell[0]), self.guidances.index(cell[1])
        near = self.strengths[max(0, across - strengths) : across + strengths + 1]
        return [(s, g) for s in near for g in self.guidances[max(0, down - guidances) : down + guidances + 1]]


@dataclass(frozen=True)
class TuningRound:
    """One call of ``evaluate``: its cells, covers per cell so far, new covers, and the leading cell."""

    purpose: str
    cells: tuple[Cell, ...]
    covers: int
    generations: int
    best: Cell


@dataclass(frozen=True)
class TuningResult:
    """The result of a search.

    mean, low, high: the winner's score over tracks and its 95 % interval, None under six tracks. The mean is
        biased upward, since the winner is the maximum.
    generations, full_grid: covers made, and covers that the whole grid would take.
    alternatives: cells of the last round that are not distinguishable from the winner on their common covers;
        under six tracks, all of them.
    """

    strength: float
    guidance: float
    mean: float
    low: float | None
    high: float | None
    generations: int
    full_grid: int
    rounds: tuple[TuningRound, ...]
    alternatives: tuple[Cell, ...]


def tune(
    space: SearchSpace,
    tracks: Sequence[str],
    seeds: Sequence[int],
    evaluate: Evaluate,
    say: Callable[[str], None],
    budget: float = 0.3,
) -> TuningResult:
    """Find the setting with the highest mean score over tracks, for a part of the full grid's covers.

    Args:
        evaluate: called at most six times, never with the same trial twice. A cover without a score counts as 0.
        say: called with a sentence about each step.
        budget: the share of the full grid's covers that may be made.

    Raises:
        RequestError: tracks or seeds are empty or repeated, or the budget is less than one cover of each strength.
    """
    check_sample(tracks, seeds)
    full_grid = space.cells * len(tracks) * len(seeds)
    max_covers = math.ceil(budget * full_grid - 1e-9)
    if not (0 < budget <= 1 and max_covers >= len(space.strengths)):
        remedy = "give more of it (up to 1), more tracks or more seeds"
        raise RequestError(
            "invalid_value",
            f"a budget of {budget:g} is {max_covers} covers, too few to try {len(space.strengths)} strengths once",
            remedy,
        )
    # Shuffled, so that the first rounds do not draw on a single album of a list that is sorted by album.
    order = np.random.default_rng(_SEED).permutation(len(tracks))
    trials = Trials([tracks[k] for k in order], seeds, evaluate, max_covers)
    rounds: list[TuningRound] = []
    best = _nearest(space.strengths, BASELINE[0]), _nearest(space.guidances, BASELINE[1])

    def race(purpose: str, cells: Sequence[Cell], share: float) -> Cell:
        covers = max(1, trials.affordable(cells, math.floor(share * max_covers) - trials.spent))
        if 0 < trials.cost(cells, covers) <= max_covers - trials.spent:
            made = trials.give(cells, covers)
            leader = _ranked(space, trials, cells)[0]
            rounds.append(TuningRound(purpose, tuple(cells), covers, made, leader))
            say(f"{purpose}: {len(cells)} settings, {covers} covers of each ({made} new)")
            say(_change(trials, best, leader, cells))
        return _ranked(space, trials, [cell for cell in cells if trials.seen(cell)])[0]

    say(
        f"{len(tracks)} tracks x {len(seeds)} seeds, at most {max_covers} covers of the {full_grid} of the "
        "full grid"
    )
    say("settings are ranked by their own covers and, with less weight, by those of their neighbours in the grid")
    row = [(strength, best[1]) for strength in space.strengths]
    best = race(f"from the baseline {cell_label(best)}, all strengths", row, ROW)
    half = _ranked(space, trials, row)[: (len(row) + 1) // 2]
    say(f"dropped, the worse half: {_listed(cell for cell in row if cell not in half)}")
    best = race("the better half on more covers", half, BETTER_HALF)
    if len(space.guidances) > 1:
        best = race(f"all guidances at strength {best[0]:g}", [(best[0], g) for g in space.guidances], COLUMN)
    best = race(f"strengths again, at guidance {best[1]:g}", space.around(best, 2, 0), ROW_AGAIN)
    if len(space.guidances) > 1:
        best = race(f"the neighbours of {cell_label(best)}", space.around(best, 1, 1), AROUND)
    finalists = _finalists(space, trials, best)
    best = race("the last in the race, on all covers", finalists, COMMIT)
    mean, low, high = trials.mean(best)
    others = [cell for cell in finalists if cell != best]
    _, _, adjusted = trials.behind(best, others)
    alternatives = tuple(cell for cell, p in zip(others, adjusted, strict=True) if not p < 1 - LEVEL)
    say(
        f"settled on {cell_label(best)}: score {_score(trials, best)}, {trials.spent} covers in place of "
        f"{full_grid}"
    )
    if alternatives:
        few = len(tracks) < FEWEST_TRACKS
        verdict = f"no verdict under {FEWEST_TRACKS} tracks against" if few else "cannot be told apart from"
        say(f"{verdict} {_listed(alternatives)}")
    return TuningResult(*best, mean, low, high, trials.spent, full_grid, tuple(rounds), alternatives)


def cell_label(cell: Cell) -> str:
    """A cell as "strength / guidance"."""
    return f"{cell[0]:g} / {cell[1]:g}"


def _ranked(space: SearchSpace, trials: Trials, cells: Sequence[Cell]) -> list[Cell]:
    """Cells by their estimate, the best first: a weighted mean over their own covers and their neighbours'."""
    leads = trials.leads()

    def estimate(cell: Cell) -> float:
        near = [other for other in space.around(cell, 1, 1) if other in leads]
        weights = [_weight(cell, other) for other in near]
        return float(np.average([leads[other] for other in near], weights=weights))

    return sorted(cells, key=lambda cell: -estimate(cell))


def _weight(cell: Cell, other: Cell) -> float:
    return (1 if cell[0] == other[0] else NEXT_STRENGTH) * (1 if cell[1] == other[1] else NEXT_GUIDANCE)


def _finalists(space: SearchSpace, trials: Trials, best: Cell) -> list[Cell]:
    """The cells that are not clearly worse, the best first: as many as the budget allows, but at least two."""
    cells = _ranked(space, trials, list(trials.scores))
    behind, p, _ = trials.behind(best, cells)
    near = [cell for cell, by, chance in zip(cells, behind, p, strict=True) if not (by > 0 and chance < 1 - LEVEL)]
    max_covers, left = min(len(near), MAX_FINALISTS), trials.max_covers - trials.spent
    count = next((n for n in range(max_covers, 2, -1) if trials.cost(near[:n], trials.size) <= left), 2)
    return near[:count]


def _change(trials: Trials, before: Cell, now: Cell, cells: Sequence[Cell]) -> str:
    """The leading cell, and its difference to the previous one."""
    leads = f"{cell_label(now)} leads with {_score(trials, now)}"
    if now == before:
        return f"{leads}, as before"
    behind, _, adjusted = trials.behind(before, cells)
    k = cells.index(now)
    if math.isnan(adjusted[k]):
        verdict = "too few tracks for a verdict"
    else:
        verdict = f"p = {adjusted[k]:.1g}" + (", which may be chance" if adjusted[k] >= 1 - LEVEL else "")
    return f"{leads}, {-behind[k]:+.3f} against {cell_label(before)} ({verdict})"


def _score(trials: Trials, cell: Cell) -> str:
    mean, low, high = trials.mean(cell)
    return f"{mean:.2f}" if low is None else f"{mean:.2f} ({low:.2f}..{high:.2f})"


def _listed(cells: Iterable[Cell]) -> str:
    return ", ".join(cell_label(cell) for cell in cells)


def _nearest(values: Sequence[float], target: float) -> float:
    return min(values, key=lambda value: abs(value - target))
