"""Align a cover with its source: lag, key, and the chance level of both searches.

A cover is synchronous with its source, so frames are compared one by one after one global shift. The chance level
is the result of the same search after circular shifts of the cover far from the right lag.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.metrics.harmony import FRAME_RATE, centred

MAX_LAG = int(1.5 * FRAME_RATE)  # frames
CHANCE_SHIFTS = 40
CHANGELESS = 0.98  # chance level above which nothing can be measured, such as one chord held throughout
LOOPED = 0.95  # chance level of a source against itself: loops of up to 2.5 s reach 0.99, songs 0.4
CLEARLY = 0.3  # minimal gain in correlation for reading the cover in another key


@dataclass(frozen=True)
class Alignment:
    """The best alignment of a cover with its source.

    lag: delay of the cover in frames of 1/25 s.
    key: transposition up in semitones, 0..11; 0 unless another key fits clearly better.
    best_key: the transposition with the highest correlation.
    pearson, any_key: mean correlation of the chroma frames in the source's key, and in the best key.
    chance, any_key_chance: chance levels of these two.
    wrong_lags, wrong_keys: results of the search around each of the wrong shifts, ``[40]``.
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


def excess(value: float, chance: float) -> float | str:
    """Rescale a value to 0 at the chance level and 1 at its maximum; or the reason why it is undefined."""
    if chance > CHANGELESS:
        return "the source and the cover stay on one sound: any moment fits any other"
    return (value - chance) / (1 - chance)


def short_loop_reason(source: Tensor) -> str:
    """The reason why a source ``[12, frames]`` has no usable chance level, or "".

    In a short loop, the search around a wrong shift succeeds as well as around the right one.
    """
    looped = align(source, source).chance > LOOPED
    return "the source goes round in a short loop: any moment fits any other" if looped else ""


def align(source: Tensor, cover: Tensor) -> Alignment:
    """Align two chromas ``[12, frames]`` of equal length, at least 50 frames."""
    products = cross_correlation(centred(source), centred(cover))
    frames = source.shape[1]
    reach = min(MAX_LAG, frames // 8)  # leaves at least 7/8 of the music to compare
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
    # [keys, shifts, lags] to [shifts, keys * lags]: one maximum per shift, as for the right lag
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
    """``[12, 2 * frames]``: at [key, lag] the sum over t of source[t] * cover[t + lag], the cover transposed down.

    Negative lags count from the end.
    """
    size = (12, 2 * source.shape[1])
    return torch.fft.irfft2(torch.fft.rfft2(source, size).conj() * torch.fft.rfft2(cover, size), size)


def overlap(source: Tensor, cover: Tensor, lag: int) -> tuple[Tensor, Tensor]:
    """The overlapping parts of two ``[..., frames]`` if the cover is delayed by ``lag`` frames."""
    frames = min(source.shape[-1], cover.shape[-1] - lag) - max(0, -lag)
    return source.narrow(-1, max(0, -lag), frames), cover.narrow(-1, max(0, lag), frames)


def correlation(a: Tensor, b: Tensor) -> float | str:
    """Pearson correlation of two ``[n]``; or the reason why it is undefined."""
    a, b = a - a.mean(), b - b.mean()
    scale = a.norm() * b.norm()
    return float((a @ b) / scale) if scale > 0 else "one of the two does not vary"


def _heard_within(heard: Tensor, lags: Tensor) -> Tensor:
    """Number of non-silent source frames that overlap the cover, for each lag."""
    before = torch.nn.functional.pad(heard.cumsum(0), (1, 0))
    return before[len(heard) - lags.clamp_min(0)] - before[(-lags).clamp_min(0)]
