"""Rhythm: where sounds begin, and how fast the beat is."""

import math

import torch
from torch import Tensor

from pipeline.metrics.spectrum import MEL_HOP, RATE

ONSET_RATE = RATE / MEL_HOP  # Hz
SLOWEST, FASTEST = 40.0, 240.0  # beats per minute
USUAL_BPM, OCTAVES = 120.0, 1.0  # the tempo people tap, and how far they stray from it
STEADY = 0.1  # autocorrelation of a beat; noise stays below


def onset_strength(levels: Tensor) -> Tensor:
    """Rises of the mel levels in dB, mean over bands: ``[batch, frames]`` at 50 Hz of ``[batch, bands, frames]``.

    The log-spectral flux of Ellis 2007, Beat tracking by dynamic programming.
    """
    rises = levels.diff(dim=2).clamp_min(0).mean(1)
    return torch.nn.functional.pad(rises, (1, 0))


def tempo(onsets: Tensor) -> float | None:
    """Beats per minute of an onset envelope ``[frames]``; None where no beat is steady.

    The peak of the autocorrelation under Ellis's log-normal preference for 120 beats per minute.
    """
    moving = onsets - onsets.mean()
    spectrum = torch.fft.rfft(moving, 2 * len(moving))
    repeats = torch.fft.irfft(spectrum.abs().square())[: len(moving)]
    slowest = min(int(60 * ONSET_RATE / SLOWEST), len(moving) - 2)
    lags = torch.arange(math.ceil(60 * ONSET_RATE / FASTEST), slowest + 1, device=onsets.device)
    if not len(lags) or repeats[0] <= 0:
        return None
    repeats = repeats / repeats[0] * len(moving) / (len(moving) - torch.arange(len(moving), device=onsets.device))
    preference = torch.exp(-((torch.log2(60 * ONSET_RATE / lags / USUAL_BPM) / OCTAVES) ** 2) / 2)
    best = int(lags[(repeats[lags] * preference).argmax()])
    before, here, after = repeats[best - 1 : best + 2].tolist()
    if here < STEADY:
        return None
    bend = before - 2 * here + after
    return 60 * ONSET_RATE / (best + ((before - after) / (2 * bend) if bend < 0 else 0.0))


def tempo_ratio(source: Tensor, cover: Tensor) -> float | str:
    """log2 of how much faster the cover is, folded to -0.5..0.5: twice as fast is the same beat counted otherwise."""
    mine, other = tempo(source), tempo(cover)
    if mine is None or other is None:
        return f"the {'source' if mine is None else 'cover'} has no steady beat"
    octaves = math.log2(other / mine)
    return octaves - round(octaves)
