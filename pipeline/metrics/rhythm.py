"""Rhythm: where sounds begin, and how fast the beat is."""

import math

import torch
from torch import Tensor
from torch.nn.functional import conv1d, max_pool1d, pad

from pipeline.metrics.alignment import correlation, overlap
from pipeline.metrics.spectrum import MEL_HOP, RATE

ONSET_RATE = RATE / MEL_HOP  # Hz
SMOOTH = 5  # frames
SLOWEST, FASTEST = 40.0, 240.0  # beats per minute
USUAL_BPM, OCTAVES = 120.0, 1.0  # the tempo people tap, and how far they stray from it
STEADY = 0.1  # autocorrelation of a beat; noise stays below


def onset_strength(levels: Tensor) -> Tensor:
    """Rises of the mel levels in dB, mean over bands: ``[batch, frames]`` at 50 Hz of ``[batch, bands, frames]``.

    The log-spectral flux of Ellis 2007, Beat tracking by dynamic programming; smoothed over 0.1 s, within which
    two attacks are heard as one.
    """
    rises = levels.diff(dim=2).clamp_min(0).mean(1)
    smooth = torch.hann_window(SMOOTH + 2, periodic=False, device=levels.device)[1:-1]
    padded = pad(rises, (1 + SMOOTH // 2, SMOOTH // 2))
    return conv1d(padded[:, None], (smooth / smooth.sum())[None, None])[:, 0]


def onset_correlation(source: Tensor, cover: Tensor, lag: int) -> float | str:
    """Correlation of two onset envelopes ``[frames]``, the cover ``lag`` frames late.

    The best of three neighbouring frames: chroma tells the lag to 1/25 s, which is coarse for onsets.
    """
    found = [correlation(*overlap(source, cover, lag + off)) for off in (-1, 0, 1)]
    return max((value for value in found if not isinstance(value, str)), default=found[1])


def tempo(onsets: Tensor) -> float | None:
    """Beats per minute of an onset envelope ``[frames]``; None where no beat is steady.

    The time after which the envelope resembles itself most, twice and four times that included, under Ellis's
    log-normal preference for 120 beats per minute.
    """
    alike = autocorrelation(onsets)
    lags = torch.arange(math.ceil(60 * ONSET_RATE / FASTEST), int(60 * ONSET_RATE / SLOWEST) + 1)
    lags = lags[4 * lags + 4 < len(alike)].to(onsets.device)
    if not len(lags):
        return None
    around = [max_pool1d(alike[None], 2 * times - 1, 1, times - 1)[0, times * lags] for times in (1, 2, 4)]
    beat = torch.stack(around).mean(0)
    preference = torch.exp(-((torch.log2(60 * ONSET_RATE / lags / USUAL_BPM) / OCTAVES) ** 2) / 2)
    best = int((beat * preference).argmax())
    if beat[best] < STEADY:
        return None
    bar = 4 * int(lags[best])
    bar += int(alike[bar - 3 : bar + 4].argmax()) - 3
    before, here, after = alike[bar - 1 : bar + 2].tolist()
    bend = before - 2 * here + after
    is_peak = here >= max(before, after) and bend < 0  # else the parabola's vertex may lie anywhere
    return 4 * 60 * ONSET_RATE / (bar + ((before - after) / (2 * bend) if is_peak else 0.0))


def autocorrelation(onsets: Tensor) -> Tensor:
    """Correlation of ``[frames]`` with itself later, ``[frames / 2]`` from lag 0; empty where it does not vary."""
    moving = onsets - onsets.mean()
    spectrum = torch.fft.rfft(moving, 2 * len(moving))
    repeats = torch.fft.irfft(spectrum.abs().square())[: len(moving) // 2]
    if repeats[0] <= 0:
        return repeats[:0]
    met = len(moving) - torch.arange(len(repeats), device=onsets.device)
    return repeats / repeats[0] * len(moving) / met


def tempo_ratio(source: Tensor, cover: Tensor) -> float | str:
    """log2 of how much faster the cover is, folded to -0.5..0.5: twice as fast is a beat counted otherwise."""
    mine, other = tempo(source), tempo(cover)
    if mine is None or other is None:
        return f"the {'source' if mine is None else 'cover'} has no steady beat"
    octaves = math.log2(other / mine)
    return octaves - round(octaves)
