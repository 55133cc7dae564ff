"""Trials of a tuning run and their scores."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from acestep.errors import RequestError
from pipeline.evaluation.statistics import Floats, interval, mean_over, mean_within, sign_flip

Cell = tuple[float, float]  # audio_cover_strength, guidance_scale


@dataclass(frozen=True)
class Trial:
    """One cover to make and score."""

    audio_cover_strength: float
    guidance_scale: float
    track_id: str
    seed: int


Evaluate = Callable[[Sequence[Trial]], Sequence[float | None]]
"""One score 0..1 for each trial; None where the cover failed or could not be measured."""


@dataclass
class Trials:
    """Scores by cell, each list in the same order of covers, so that any two cells are paired.

    A cell's covers are every track with the first seed, then with the second, and so on. A cover without a score
    counts as 0: failing must not raise a mean. A track that fails with every setting makes no difference.
    """

    tracks: Sequence[str]
    seeds: Sequence[int]
    evaluate: Evaluate
    max_covers: int
    scores: dict[Cell, list[float]] = field(default_factory=dict)
    spent: int = 0

    @property
    def size(self) -> int:
        """Covers of a complete cell."""
        return len(self.tracks) * len(self.seeds)

    def seen(self, cell: Cell) -> int:
        """Covers that a cell has."""
        return len(self.scores.get(cell, ()))

    def cost(self, cells: Sequence[Cell], covers: int) -> int:
        """New covers needed to bring each cell to ``covers`` covers."""
        return sum(max(0, covers - self.seen(cell)) for cell in cells)

    def affordable(self, cells: Sequence[Cell], generations: int) -> int:
        """The maximum of covers per cell that ``generations`` new covers allow."""
        return max(n for n in range(self.size + 1) if self.cost(cells, n) <= max(0, generations))

    def give(self, cells: Sequence[Cell], covers: int) -> int:
        """Bring each cell to ``covers`` covers in one call; returns the number of new ones."""
        units = [(track, seed) for seed in self.seeds for track in self.tracks]
        new = [(cell, *unit) for cell in cells for unit in units[self.seen(cell) : covers]]
        if self.spent + len(new) > self.max_covers:
            raise ValueError(f"{len(new)} covers more than {self.max_covers - self.spent} that are left")
        if not new:
            return 0
        scores = self.evaluate([Trial(*cell, track, seed) for cell, track, seed in new])
        for (cell, _, _), value in zip(new, scores, strict=True):
            self.scores.setdefault(cell, []).append(_as_score(value))
        self.spent += len(new)
        return len(new)

    def mean(self, cell: Cell) -> tuple[float, float | None, float | None]:
        """Mean over tracks and its 95 % interval, None under six tracks."""
        tracks = self._by_track([self.scores[cell]])
        low, high = interval(tracks)
        known = not np.isnan(low[0])
        return float(mean_over(tracks)[0]), float(low[0]) if known else None, float(high[0]) if known else None

    def leads(self) -> dict[Cell, float]:
        """Mean lead of each cell over the cell with the most covers, on their common covers."""
        max_covers = max(self.scores, key=self.seen)
        return {
            cell: float(np.mean(_paired(scores, self.scores[max_covers]))) for cell, scores in self.scores.items()
        }

    def behind(self, best: Cell, cells: Sequence[Cell]) -> tuple[Floats, Floats, Floats]:
        """By how much each cell scores lower than ``best``, with p and adjusted p: each ``[cells]``.

        Computed on the common covers; both p are NaN under six tracks.
        """
        differences = self._by_track([_paired(self.scores[best], self.scores[cell]) for cell in cells])
        return mean_over(differences), *sign_flip(differences)

    def _by_track(self, scores: Sequence[Sequence[float]]) -> Floats:
        """Scores of cells as means ``[tracks, cells]``."""
        seeds, tracks = len(self.seeds), len(self.tracks)
        values = np.full((seeds * tracks, len(scores)), np.nan)
        for k, listed in enumerate(scores):
            values[: len(listed), k] = listed
        by_track = values.reshape(seeds, tracks, -1).swapaxes(0, 1).reshape(tracks * seeds, -1)
        return mean_within(by_track, np.arange(tracks) * seeds)


def _paired(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(one, other, strict=False)]


def _as_score(value: float | None) -> float:
    return 0.0 if value is None or math.isnan(value) else float(value)


def check_sample(tracks: Sequence[str], seeds: Sequence[int]) -> None:
    """Check the tracks and seeds of a tuning run.

    Raises:
        RequestError: tracks or seeds are empty or repeated.
    """
    for name, values in (("tracks", tracks), ("seeds", seeds)):
        if not values:
            raise RequestError("missing_value", f"there are no {name} to tune on", "give at least one")
        twice = [value for k, value in enumerate(values) if value in values[:k]]
        if twice:
            raise RequestError("conflict", f"lists {twice[0]} twice", "name each once", name)
