"""How a cover lies on its source: how much later it plays, in which key, and what chance alone would give.

A cover is locked to its source in time, so frames are compared one by one after one shift of the whole. Chance is
what the same search finds between the source and the cover wound round by times far from the right one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.metrics.harmony import FRAME_RATE, centred

MAX_LAG = int(1.5 * FRAME_RATE)  # frames
CHANCE_SHIFTS = 40
CHANGELESS = 0.98  # chance this good leaves nothing to tell apart: one chord held throughout
LOOPED = 0.95  # of a source beside itself: loops of up to 2.5 s reach 0.99, songs 0.4
CLEARLY = 0.3  # how much better another key must fit before the cover is read in it


@dataclass(frozen=True)
class Alignment:
    """The best fit of a cover to its source.

    lag: frames of 1/25 s that the cover is late.
    key: semitones up, 0..11, in which the cover is read: 0 unless another fits clearly better.
    best_key: the one that fits best, however narrowly.
    pearson, any_key: mean correlation of the chroma frames in the source's own key, and in the best.
    chance, any_key_chance: what the same searches find where there is nothing to find.
    wrong_lags, wrong_keys: what the search for lag and key finds around each of the wrong shifts, ``[40]``.
    """

    lag: int
    key: int
    best_key: int
    pearson: float
    any_key: float
    chance: float
    any_key_chance: float
    wrong_lags: Tensor
    wrong_keys: Tensor


def excess(found: float, chance: float) -> float | str:
    """What is found beyond chance, 1 all there is and 0 what chance gives; or why that cannot be told."""
    if chance > CHANGELESS:
        return "the source and the cover stay on one sound: any moment fits any other"
    return (found - chance) / (1 - chance)


def short_loop_reason(source: Tensor) -> str:
    """Why nothing that keeps a source ``[12, frames]`` can be told from chance; "" where it can.

    The search around a wrong place finds a short loop again, as it does around the right one.
    """
    beside_itself = align(source, source).chance
    return "the source goes round in a short loop: any moment fits any other" if beside_itself > LOOPED else ""


def align(source: Tensor, cover: Tensor) -> Alignment:
    """The best fit of two chromas ``[12, frames]`` of one length, of at least 50 frames."""
    products = cross_correlation(centred(source), centred(cover))
    frames = source.shape[1]
    reach = min(MAX_LAG, frames // 8)  # over an eighth of the music, too little would be left
    near = torch.arange(-reach, reach + 1, device=source.device)

    heard = source.amax(0) > 0
    fit = products[:, near] / _heard_within(heard, near).clamp_min(1)
    shifts = torch.linspace(2 * reach, frames - 2 * reach, CHANCE_SHIFTS, device=source.device).round().long()
    far = shifts[:, None] + near
    by_chance = (products[:, far] + products[:, far - frames]) / heard.sum().clamp_min(1)

    pearson, any_key = fit[0].max(), fit.max()
    best_key = int(fit.argmax()) // len(near)
    another = best_key != 0 and bool(any_key - pearson > CLEARLY)
    searched = fit if another else fit[:1]
    key, place = divmod(int(searched.argmax()), len(near))
    # [keys, shifts, lags] to [shifts, keys * lags]: one winner for each shift, as there is for the right place
    wrong = by_chance[: len(searched)].transpose(0, 1).flatten(1).argmax(1)
    return Alignment(
        lag=place - reach,
        key=key,
        best_key=best_key,
        pearson=float(pearson),
        any_key=float(any_key),
        chance=float(by_chance[0].amax(-1).mean()),
        any_key_chance=float(by_chance.amax((0, 2)).mean()),
        wrong_lags=shifts + wrong % len(near) - reach,
        wrong_keys=wrong // len(near),
    )


def cross_correlation(source: Tensor, cover: Tensor) -> Tensor:
    """``[12, 2 * frames]``: at [key, lag] the sum over frames t of source[t] times cover[t + lag], the cover
    turned down by ``key`` semitones; negative lags count from the end."""
    size = (12, 2 * source.shape[1])
    return torch.fft.irfft2(torch.fft.rfft2(source, size).conj() * torch.fft.rfft2(cover, size), size)


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
