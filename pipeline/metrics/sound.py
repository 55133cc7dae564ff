"""Technical measures of one recording: loudness, peaks, clipping, silence, spectral flatness."""

import math
import warnings

import numpy as np
import pyloudnorm
import torch
from torch import Tensor
from torch.nn.functional import conv1d, max_pool1d, pad

from acestep.constants import SAMPLE_RATE
from pipeline.metrics.spectrum import RATE

FULL_SCALE = 1 - 2.0**-15  # largest 16-bit value
SILENCE_FRAME = SAMPLE_RATE // 10  # samples
SILENCE_POWER = 1e-6  # mean square, -60 dBFS
GATE_S, BLOCK_STEP_S = 0.4, 0.1  # block length and step of BS.1770
ABSOLUTE_GATE, RELATIVE_GATE = -70.0, -10.0  # LUFS; LU relative to the mean of the remaining blocks
PIECE, SETTLE_S = 30 * SAMPLE_RATE, 1.0  # samples filtered at once; settling time of the filters
OVERSAMPLING = 4
TAPS = 12  # filter taps on each side of an interpolated sample
PEAK_BLOCK, BLOCKS_AT_ONCE = 64, 2048
HEARD_HZ = (40.0, 10_000.0)  # range of the flatness, below the resampling filter's edge

Found = dict[str, float | int | bool | str]


def sound_of(wave: Tensor) -> Found:
    """``audio/`` measures of a finite ``[channels, n]`` at 48 kHz; a text is the reason for a missing value."""
    return {
        "audio/finite": True,
        "audio/lufs": loudness(wave),
        "audio/true_peak_dbfs": true_peak(wave),
        "audio/clipped_frac": clipped(wave),
    } | silences(wave)


def loudness(wave: Tensor) -> float | str:
    """Integrated loudness in LUFS (ITU-R BS.1770-4) of ``[channels, n]``.

    The gate is applied here, because pyloudnorm would need gigabytes for a long recording.
    """
    if wave.shape[1] < GATE_S * SAMPLE_RATE:
        return f"shorter than {GATE_S} s"
    energy = 10 ** (block_loudness(wave) / 10)
    heard = energy[energy > 10 ** (ABSOLUTE_GATE / 10)]
    if not len(heard):
        return f"silent: under {ABSOLUTE_GATE:g} LUFS throughout"
    return 10 * math.log10(heard[heard > heard.mean() * 10 ** (RELATIVE_GATE / 10)].mean())


def block_loudness(wave: Tensor) -> np.ndarray:
    """Loudness in LUFS of blocks of 0.4 s every 0.1 s of ``[channels, n]``, filtered in pieces of 30 s."""
    rest, settle = (round(seconds * SAMPLE_RATE) for seconds in (GATE_S - BLOCK_STEP_S, SETTLE_S))
    levels = []
    for start in range(0, wave.shape[1] - rest, PIECE):
        before = min(start, settle)
        meter = pyloudnorm.Meter(SAMPLE_RATE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # empty mean if all blocks are silent
            meter.integrated_loudness(wave[:, start - before : start + PIECE + rest].T.cpu().numpy())
        levels += meter.blockwise_loudness[round(before / SAMPLE_RATE / BLOCK_STEP_S) :]
    return np.array(levels)


def true_peak(wave: Tensor) -> float | str:
    """Peak in dBFS of ``[channels, n]`` oversampled fourfold.

    An interpolated sample exceeds its neighbours at most by the filter's gain, so only loud blocks are
    interpolated.
    """
    blocks = pad(wave, (PEAK_BLOCK, PEAK_BLOCK + -wave.shape[1] % PEAK_BLOCK)).unflatten(1, (-1, PEAK_BLOCK))
    peaks = torch.maximum(blocks.amax(-1), -blocks.amin(-1))
    peak = float(peaks.max())
    if peak == 0:
        return "silent"
    kernels = _interpolation().to(wave.device)
    gain = float(kernels.abs().sum(-1).max())
    around = max_pool1d(peaks, 3, stride=1)  # maximum of a block and its neighbours
    channel, first = (around * gain >= peak).nonzero(as_tuple=True)
    for c, k in zip(channel.split(BLOCKS_AT_ONCE), first.split(BLOCKS_AT_ONCE), strict=True):
        near = torch.cat([blocks[c, k, -TAPS:], blocks[c, k + 1], blocks[c, k + 2, :TAPS]], dim=1)
        peak = max(peak, float(conv1d(near[:, None], kernels[:, None]).abs().max()))
    return 20 * math.log10(peak)


def _interpolation() -> Tensor:
    """Hann-windowed sinc ``[3, 24]`` for the three positions between two samples."""
    distance = torch.arange(2 * TAPS) - (TAPS - 1) - torch.arange(1, OVERSAMPLING)[:, None] / OVERSAMPLING
    return torch.sinc(distance) * torch.cos(torch.pi * distance / (2 * TAPS)).square()


def clipped(wave: Tensor) -> float:
    """Share of samples of ``[channels, n]`` at or beyond full scale."""
    low, high = wave.aminmax()
    if max(-low, high) < FULL_SCALE:
        return 0.0
    return int((wave.abs() >= FULL_SCALE).sum()) / wave.numel()


def silences(wave: Tensor) -> Found:
    """Share of 0.1 s frames below -60 dBFS (mean over channels), and the leading and trailing silence."""
    frames = pad(wave, (0, -wave.shape[1] % SILENCE_FRAME)).unflatten(1, (-1, SILENCE_FRAME))
    power = torch.linalg.vector_norm(frames, dim=2).square().mean(0) / SILENCE_FRAME
    heard = (power >= SILENCE_POWER).nonzero().flatten().tolist()
    count, hop_s = len(power), SILENCE_FRAME / SAMPLE_RATE
    return {
        "audio/silence_frac": 1 - len(heard) / count,
        "audio/lead_silence_s": heard[0] * hop_s if heard else "silent",
        "audio/tail_silence_s": (count - 1 - heard[-1]) * hop_s if heard else "silent",
    }


def flatness(spectra: Tensor) -> Tensor:
    """Spectral flatness ``[batch]`` (geometric / arithmetic mean) of power spectra ``[batch, bins]``."""
    hertz = torch.linspace(0, RATE / 2, spectra.shape[1], device=spectra.device)
    heard = spectra[:, (hertz >= HEARD_HZ[0]) & (hertz <= HEARD_HZ[1])].clamp_min(1e-20)
    return heard.log().mean(1).exp() / heard.mean(1)
