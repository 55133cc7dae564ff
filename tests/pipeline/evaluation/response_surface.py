"""A stand-in for a model on a catalogue: how the score of a cover answers to strength and guidance.

The song kept rises with strength and the style moved falls with it, both as sigmoids; guidance moves the style
further, most where the source is let go early, and from some scale on costs the song. Each track has a turning
point of its own, each seed of a track its luck with all settings, and each cover its own noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.evaluation.tuning import SearchSpace, Trial


@dataclass
class Surface:
    """A response surface.

    turning: strength at which half of the song is kept, over tracks on average; ``spread`` is its sd.
    leaving: strength at which half of the style is moved; ``slope`` is the scale of both sigmoids.
    guidance, width: the best scale at strength 0.5, and how far from it the style suffers.
    tilt: by how much the best scale moves over the whole range of strengths.
    level: how much less than all of it is kept of a track at best, one sd.
    luck, noise: sd of a track's seed and of a single cover.
    fails: share of the covers that fail.
    """

    turning: float = 0.15
    leaving: float = 0.4
    spread: float = 0.08
    slope: float = 0.12
    guidance: float = 11.0
    width: float = 6.0
    tilt: float = 4.0
    level: float = 0.1
    luck: float = 0.05
    noise: float = 0.04
    fails: float = 0.0
    seed: int = 0
    asked: list[Trial] = field(default_factory=list)
    calls: int = 0

    def _of_track(self, track: str) -> tuple[float, float]:
        rng = np.random.default_rng([self.seed, *track.encode()])
        return self.turning + self.spread * rng.normal(), 1 - self.level * abs(rng.normal())

    def expected(self, strength: float, guidance: float, track: str) -> float:
        """The score of a track's covers without luck and noise."""
        turning, level = self._of_track(track)
        best = self.guidance + self.tilt * (strength - 0.5)
        fit = np.exp(-(((guidance - best) / self.width) ** 2) / 2)
        kept = level / (1 + np.exp(-(strength - turning) / self.slope))
        moved = fit / (1 + np.exp((strength - self.leaving) / self.slope))
        return float(2 * kept * moved / (kept + moved))

    def optimum(self, space: SearchSpace, tracks: Sequence[str]) -> tuple[float, float]:
        """Strength and guidance of the best cell of the grid, on average over the tracks."""
        cells = [(s, g) for s in space.strengths for g in space.guidances]
        return max(cells, key=lambda cell: np.mean([self.expected(*cell, track) for track in tracks]))

    def __call__(self, trials: Sequence[Trial]) -> list[float | None]:
        """Score covers, as a cluster job would."""
        self.calls += 1
        self.asked += trials
        return [self._score(trial) for trial in trials]

    def _score(self, trial: Trial) -> float | None:
        track = [*trial.track_id.encode()]
        luck = np.random.default_rng([self.seed, 1, trial.seed, *track]).normal()
        cell = [round(100 * trial.audio_cover_strength), round(100 * trial.guidance_scale)]
        own = np.random.default_rng([self.seed, 2, trial.seed, *cell, *track])
        if own.random() < self.fails:
            return None
        expected = self.expected(trial.audio_cover_strength, trial.guidance_scale, trial.track_id)
        return float(np.clip(expected + self.luck * luck + self.noise * own.normal(), 0, 1))


def is_near(space: SearchSpace, found: tuple[float, float], optimum: tuple[float, float]) -> bool:
    """Whether two cells are the same or a king's move apart."""
    across = abs(space.strengths.index(found[0]) - space.strengths.index(optimum[0]))
    down = abs(space.guidances.index(found[1]) - space.guidances.index(optimum[1]))
    return max(across, down) <= 1
