"""How a cover lies on its source: how much later it plays, in which key, and what chance alone would give.

A cover is locked to its source in time, so frames are compared one by one after one shift of the whole. Chance is what
the same search finds between the source and the cover wound round by times far from the right one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.metrics.harmony import FRAME_RATE, centred

MOST_LAG = int(1.5 * FRAME_RATE)  # frames
CHANCE_SHIFTS = 40
CHANGELESS = 0.98  # chance this good leaves nothing to tell apart: one chord held throughout
CLEARLY = 0.1  # how much better another key must fit before the cover is read in it


@dataclass(frozen=True)
class Alignment:
    """The best fit of a cover to its source.

    lag: frames of 1/25 s that the cover is late.
    key: semitones up, 0..11, in which the cover is read: 0 unless another fits clearly better.
    best_key: the one that fits best, however narrowly.
    pearson, any_key: mean correlation of the chroma frames in the source's own key, and in the best.
    chance, any_key_chance: what the same searches find where there is nothing to find.
    """

    lag: int
    key: int
    best_key: int
    pearson: float
    any_key: float
    chance: float
    any_key_chance: float


def excess(found: float, chance: float) -> float | str:
    """What is found beyond chance, 1 all there is and 0 what chance gives; or why that cannot be told."""
    if chance > CHANGELESS:
        return "the source and the cover stay on one sound: any moment fits any other"
    return (found - chance) / (1 - chance)


def align(source: Tensor, cover: Tensor) -> Alignment:
    """The best fit of two chromas ``[12, frames]`` of one length, of at least 50 frames."""
    products = cross_correlation(centred(source), centred(cover))
    frames = source.shape[1]
    reach = most_lag(frames)
    near = torch.arange(-reach, reach + 1, device=source.device)

    heard = source.amax(0) > 0
    fit = products[:, near] / _heard_within(heard, near).clamp_min(1)
    far = chance_shifts(frames, source.device)[:, None] + near
    by_chance = (products[:, far] + products[:, far - frames]) / heard.sum().clamp_min(1)

    pearson, any_key = fit[0].max(), fit.max()
    best_key, best_lag = divmod(int(fit.argmax()), len(near))
    another = best_key != 0 and bool(any_key - pearson > CLEARLY)
    lag = best_lag if another else int(fit[0].argmax())
    return Alignment(
        lag=lag - reach,
        key=best_key if another else 0,
        best_key=best_key,
        pearson=float(pearson),
        any_key=float(any_key),
        chance=float(by_chance[0].amax(-1).mean()),
        any_key_chance=float(by_chance.amax((0, 2)).mean()),
    )


def cross_correlation(source: Tensor, cover: Tensor) -> Tensor:
    """``[12, 2 * frames]``: at [key, lag] the sum over frames t of source[t] times cover[t + lag], the cover turned
    down by ``key`` semitones; negative lags count from the end."""
    size = (12, 2 * source.shape[1])
    return torch.fft.irfft2(torch.fft.rfft2(source, size).conj() * torch.fft.rfft2(cover, size), size)


def most_lag(frames: int) -> int:
    """The search reaches 1.5 s, but an eighth of the music at most: beyond that too little would be left."""
    return min(MOST_LAG, frames // 8)


def chance_shifts(frames: int, device: torch.device) -> Tensor:
    """Shifts far from 0, evenly spread, by which chance is asked."""
    nearest = 2 * most_lag(frames)
    return torch.linspace(nearest, frames - nearest, CHANCE_SHIFTS, device=device).round().long()


def overlap(source: Tensor, cover: Tensor, lag: int) -> tuple[Tensor, Tensor]:
    """The parts of two ``[..., frames]`` that sound together when the cover is ``lag`` frames late."""
    frames = min(source.shape[-1], cover.shape[-1] - lag) - max(0, -lag)
    return source.narrow(-1, max(0, -lag), frames), cover.narrow(-1, max(0, lag), frames)


def correlation(a: Tensor, b: Tensor) -> float | str:
    """Pearson correlation of two ``[n]``; or why there is none."""
    a, b = a - a.mean(), b - b.mean()
    scale = a.norm() * b.norm()
    return float((a @ b) / scale) if scale > 0 else "one of the two does not vary"


def _heard_within(heard: Tensor, lags: Tensor) -> Tensor:
    """How many heard frames of the source meet a frame of the cover, at each lag."""
    before = torch.nn.functional.pad(heard.cumsum(0), (1, 0))
    return before[len(heard) - lags.clamp_min(0)] - before[(-lags).clamp_min(0)]
