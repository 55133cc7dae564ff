"""Rhythm: onset strength and tempo."""

import math

import torch
from torch import Tensor
from torch.nn.functional import conv1d, max_pool1d, pad

from pipeline.metrics.alignment import correlation, overlap
from pipeline.metrics.spectrum import MEL_HOP, RATE

ONSET_RATE = RATE / MEL_HOP  # Hz
SMOOTH = 5  # frames
SLOWEST, FASTEST = 40.0, 240.0  # beats per minute
USUAL_BPM, OCTAVES = 120.0, 1.0  # centre and width of the tempo prior
STEADY = 0.1  # minimal autocorrelation of a beat; noise stays below


def onset_strength(levels: Tensor) -> Tensor:
    """Onset strength ``[batch, frames]`` at 50 Hz of mel levels in dB ``[batch, bands, frames]``.

    Log-spectral flux (Ellis 2007, Beat tracking by dynamic programming), smoothed over 0.1 s.
    """
    rises = levels.diff(dim=2).clamp_min(0).mean(1)
    smooth = torch.hann_window(SMOOTH + 2, periodic=False, device=levels.device)[1:-1]
    padded = pad(rises, (1 + SMOOTH // 2, SMOOTH // 2))
    return conv1d(padded[:, None], (smooth / smooth.sum())[None, None])[:, 0]


def onset_correlation(source: Tensor, cover: Tensor, lag: int) -> float | str:
    """Correlation of two onset envelopes ``[frames]``, the cover delayed by ``lag`` frames.

    The maximum over three neighbouring lags, because the lag from chroma is accurate to 1/25 s only.
    """
    values = [correlation(*overlap(source, cover, lag + offset)) for offset in (-1, 0, 1)]
    return max((value for value in values if not isinstance(value, str)), default=values[1])


def tempo(onsets: Tensor) -> float | None:
    """Beats per minute of an onset envelope ``[frames]``; None without a steady beat.

    The maximum of the autocorrelation, averaged over one, two and four beats, with the log-normal tempo prior of
    Ellis 2007.
    """
    similarity = autocorrelation(onsets)
    lags = torch.arange(math.ceil(60 * ONSET_RATE / FASTEST), int(60 * ONSET_RATE / SLOWEST) + 1)
    lags = lags[4 * lags + 4 < len(similarity)].to(onsets.device)
    if not len(lags):
        return None
    multiples = [max_pool1d(similarity[None], 2 * n - 1, 1, n - 1)[0, n * lags] for n in (1, 2, 4)]
    beat = torch.stack(multiples).mean(0)
    preference = torch.exp(-((torch.log2(60 * ONSET_RATE / lags / USUAL_BPM) / OCTAVES) ** 2) / 2)
    best = int((beat * preference).argmax())
    if beat[best] < STEADY:
        return None
    bar = 4 * int(lags[best])
    bar += int(similarity[bar - 3 : bar + 4].argmax()) - 3
    before, here, after = similarity[bar - 1 : bar + 2].tolist()
    curvature = before - 2 * here + after
    is_peak = here >= max(before, after) and curvature < 0  # otherwise the parabola's vertex may lie anywhere
    return 4 * 60 * ONSET_RATE / (bar + ((before - after) / (2 * curvature) if is_peak else 0.0))


def autocorrelation(onsets: Tensor) -> Tensor:
    """Unbiased autocorrelation ``[frames / 2]`` of ``[frames]`` from lag 0; empty if the input is constant."""
    centred = onsets - onsets.mean()
    spectrum = torch.fft.rfft(centred, 2 * len(centred))
    products = torch.fft.irfft(spectrum.abs().square())[: len(centred) // 2]
    if products[0] <= 0:
        return products[:0]
    overlapping = len(centred) - torch.arange(len(products), device=onsets.device)
    return products / products[0] * len(centred) / overlapping


def tempo_ratio(source: Tensor, cover: Tensor) -> float | str:
    """log2 of the tempo ratio cover / source, folded to -0.5..0.5 because octave errors are ambiguous."""
    source_bpm, cover_bpm = tempo(source), tempo(cover)
    if source_bpm is None or cover_bpm is None:
        return f"the {'source' if source_bpm is None else 'cover'} has no steady beat"
    octaves = math.log2(cover_bpm / source_bpm)
    return octaves - round(octaves)
