"""Harmony: note energies and chroma (strength of the pitch classes over time)."""

import torch
from torch import Tensor

from pipeline.metrics.spectrum import RATE, bin_frequencies, power_spectra

SIZE, HOP = 8192, 960  # samples: 25 frames per second, the latent frame rate
FRAME_RATE = RATE / HOP
LOWEST, HIGHEST = 36, 107  # MIDI notes C2..B7
SILENT_BELOW = 1e-6  # energy relative to the loudest frame (-60 dB) below which a frame has no pitch


def note_energies(mono: Tensor) -> Tensor:
    """Energy of each semitone ``[batch, 72, frames]`` of ``[batch, n]`` at 24 kHz; silent frames are all zero."""
    bank = semitone_bank(mono.device)
    energy = torch.cat([spectra @ bank for spectra in power_spectra(mono, SIZE, HOP, len(bank))], dim=1)
    loudness = energy.sum(2, keepdim=True)
    heard = loudness > SILENT_BELOW * loudness.amax(1, keepdim=True)
    return (energy * heard).transpose(1, 2)


def semitone_bank(device: torch.device) -> Tensor:
    """Weights ``[bins, 72]``: a Gaussian of 0.35 semitones around each note, with sum 1; omits higher bins."""
    frequency = bin_frequencies(SIZE, device).double()
    frequency = frequency[frequency < 440 * 2 ** ((HIGHEST + 2 - 69) / 12)]
    midi = 69 + 12 * torch.log2(frequency / 440)
    notes = torch.arange(LOWEST, HIGHEST + 1, device=device)
    weight = torch.exp(-(((midi[:, None] - notes) / 0.35) ** 2) / 2)
    weight = weight / weight.sum(0)
    return torch.where(weight > 1e-7, weight, 0).float()  # denormal numbers are slow to multiply


def chroma(notes: Tensor) -> Tensor:
    """Chroma ``[..., 12, frames]``, C first, of ``note_energies``.

    Weighted towards the middle register; the maximum of a frame is 1, in silence 0. Amplitudes are summed instead
    of energies, which the melody would dominate.
    """
    midi = torch.arange(LOWEST, HIGHEST + 1, device=notes.device)
    weight = torch.exp(-(((midi - 69) / 15) ** 2) / 2)
    folded = (notes.sqrt() * weight[:, None]).unflatten(-2, (-1, 12)).sum(-3)
    return folded / folded.amax(-2, keepdim=True).clamp_min(torch.finfo(folded.dtype).tiny)


def centred(chroma: Tensor) -> Tensor:
    """Centre and normalize frames ``[..., 12, frames]``: the dot product of two is their Pearson correlation.

    Frames with equal pitch classes, including silence, become zero.
    """
    return torch.nn.functional.normalize(chroma - chroma.mean(-2, keepdim=True), dim=-2, eps=1e-6)
