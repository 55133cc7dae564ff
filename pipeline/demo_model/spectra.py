"""What latents are made of: log spectra of a frame, and the phase of its low octaves.

Legend: b batch, a audio channels, s samples at 48 kHz, t latent frames (25 Hz), f features, o octaves.
"""

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

HOP = 1920
LONG, SHORT = 8192, 2048  # windows in samples: for pitch, and for time
LOWEST_NOTE, SEMITONES, MELS, SIDES = 36, 60, 40, 10
FEATURES = SEMITONES + 2 * MELS + SIDES
FLOORS = (1e-7, 1e-8, 1e-8)  # power under which nothing is heard: of semitones, mel bands, and side bands
OCTAVES, LOWEST_PHASE_HZ = 4, 55.0
PHASE_WINDOW = 5760
EDGE_FRAMES = 3  # at either end of a clip, whose windows reach outside of it


def mid(audio: Tensor) -> Tensor:
    """``[b, 2, s]`` -> the sum of both channels ``[b, s]``."""
    return (audio[:, 0] + audio[:, 1]) * math.sqrt(0.5)


def side(audio: Tensor) -> Tensor:
    """``[b, 2, s]`` -> the difference of both channels ``[b, s]``."""
    return (audio[:, 0] - audio[:, 1]) * math.sqrt(0.5)


def band_powers(audio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Power ``[b, t, bands]`` of semitones, of mel bands (twice a frame), and of the side signal's mel bands."""
    frames = audio.shape[-1] // HOP
    sum_, difference = mid(audio), side(audio)
    notes = _power(sum_, LONG, HOP, HOP // 2, frames) @ _semitone_bank()
    mels = _power(sum_, SHORT, HOP // 2, HOP // 4, 2 * frames) @ _mel_bank(MELS)
    sides = _power(difference, SHORT, HOP, HOP // 2, frames) @ _mel_bank(SIDES)
    return notes, mels.unflatten(1, (frames, 2)).flatten(2), sides


def log_bands(audio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logarithms of ``band_powers``, in nepers above the floors."""
    notes, mels, sides = (
        0.5 * torch.log1p(power / floor) for power, floor in zip(band_powers(audio), FLOORS, strict=True)
    )
    return notes, mels, sides


def features(audio: Tensor) -> Tensor:
    """Log spectra ``[b, t, f]`` of ``[b, 2, s]``."""
    return torch.cat(log_bands(audio), dim=-1)


def phasors(audio: Tensor) -> Tensor:
    """The analytic signal of four octaves from 55 Hz, sampled at the centre of each frame: ``[b, t, 2 o]``.

    Real parts, then imaginary parts; compressed, so that quiet sound has a phase too. One sample of an octave
    tells the phase of its strongest partial, whose frequency the log spectra tell.
    """
    frames = _frames(mid(audio), PHASE_WINDOW, HOP, HOP // 2, audio.shape[-1] // HOP)
    real, imaginary = (frames @ _phase_bank()).chunk(2, dim=-1)
    size = (real.square() + imaginary.square() + 1e-8).pow(0.35)
    return torch.cat((real / size, imaginary / size), dim=-1)


def _frames(signal: Tensor, window: int, hop: int, first_centre: int, count: int) -> Tensor:
    """Pieces ``[b, count, window]`` of ``[b, s]`` around every ``hop`` samples, zeros beyond the ends."""
    padded = F.pad(signal, (window, window))
    start = window + first_centre - window // 2
    return padded[:, start : start + hop * (count - 1) + window].unfold(1, window, hop)


def _power(signal: Tensor, window: int, hop: int, first_centre: int, count: int) -> Tensor:
    pieces = _frames(signal, window, hop, first_centre, count) * _hann(window)
    return torch.view_as_real(torch.fft.rfft(pieces)).square().sum(-1)


@cache
def _hann(window: int) -> Tensor:
    """Scaled so that a sine's power is the square of its amplitude."""
    return torch.hann_window(window) / (window / 4)


@cache
def _semitone_bank() -> Tensor:
    frequency = torch.arange(LONG // 2 + 1) * 48_000 / LONG
    midi = 69 + 12 * torch.log2(frequency.clamp_min(1) / 440)
    weight = torch.exp(-(((midi[:, None] - LOWEST_NOTE - torch.arange(SEMITONES)) / 0.45) ** 2) / 2)
    return torch.where(weight > 1e-4, weight, 0.0)


@cache
def _mel_bank(bands: int, lowest: float = 40.0, highest: float = 16_000.0) -> Tensor:
    """Triangles evenly spaced in mel; one narrower than a bin takes the nearest bin."""
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (lowest, highest))
    edges = 700 * (10 ** (np.linspace(low, high, bands + 2) / 2595) - 1)
    frequency = np.arange(SHORT // 2 + 1) * 48_000 / SHORT
    rising = (frequency[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequency[:, None]) / (edges[2:] - edges[1:-1])
    weight = np.maximum(0, np.minimum(rising, falling))
    for band in np.flatnonzero(weight.sum(0) == 0):
        weight[round(edges[band + 1] * SHORT / 48_000), band] = 1
    return torch.tensor(weight, dtype=torch.float32)


@cache
def _phase_bank() -> Tensor:
    """Windowed band-pass filters ``[window, 2 o]`` with a gain of 1: cosines, then sines around the centre."""
    frequency = torch.arange(PHASE_WINDOW // 2 + 1, dtype=torch.float64) * 48_000 / PHASE_WINDOW
    octave = torch.log2(frequency.clamp_min(1) / LOWEST_PHASE_HZ)
    position = octave[:, None] - torch.arange(OCTAVES) - 0.5  # in octaves from each band's centre
    gain = torch.cos((position.abs() - 0.4).clamp(0, 0.2) / 0.2 * math.pi / 2).square()
    window = torch.hann_window(PHASE_WINDOW, periodic=False, dtype=torch.float64)[:, None]
    response = torch.fft.irfft(gain.T.to(torch.complex128), PHASE_WINDOW).T.roll(PHASE_WINDOW // 2, 0)
    # The analytic filter has no negative frequencies: its imaginary part is the Hilbert transform of the real one.
    spectrum = torch.fft.fft(response * window, dim=0)
    spectrum[PHASE_WINDOW // 2 :] = 0
    analytic = torch.fft.ifft(2 * spectrum, dim=0).flip(0).roll(1, 0)  # reversed, as a convolution reads it
    return torch.cat((analytic.real, analytic.imag), dim=1).float()
