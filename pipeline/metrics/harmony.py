"""Harmony: chroma, which pitch classes sound when, and what of them a cover keeps beyond chance."""

import torch
from torch import Tensor

from pipeline.metrics.spectrum import RATE, bin_frequencies, power_spectra

SIZE, HOP = 8192, 960  # samples: 25 frames a second, the model's own grid
FRAME_RATE = RATE / HOP
LOWEST, HIGHEST = 36, 107  # MIDI notes C2..B7
SILENT_BELOW = 1e-6  # a frame of less than this part of the loudest frame's energy (-60 dB) has no pitch


def note_energies(mono: Tensor) -> Tensor:
    """Energy of each semitone ``[batch, 72, frames]`` of ``[batch, n]`` at 24 kHz; silent frames are all zero."""
    bank = semitone_bank(mono.device)
    energy = torch.cat([spectra @ bank for spectra in power_spectra(mono, SIZE, HOP, len(bank))], dim=1)
    loudness = energy.sum(2, keepdim=True)
    heard = loudness > SILENT_BELOW * loudness.amax(1, keepdim=True)
    return (energy * heard).transpose(1, 2)


def semitone_bank(device: torch.device) -> Tensor:
    """Weights ``[bins, 72]``: a Gaussian of 0.35 semitones around each note, its sum 1; bins above the last note's
    reach are left out."""
    frequency = bin_frequencies(SIZE, device).double()
    frequency = frequency[frequency < 440 * 2 ** ((HIGHEST + 2 - 69) / 12)]
    midi = 69 + 12 * torch.log2(frequency / 440)
    notes = torch.arange(LOWEST, HIGHEST + 1, device=device)
    weight = torch.exp(-(((midi[:, None] - notes) / 0.35) ** 2) / 2)
    weight = weight / weight.sum(0)
    return torch.where(weight > 1e-7, weight, 0).float()  # denormal numbers are slow to multiply


def chroma(notes: Tensor) -> Tensor:
    """Pitch classes ``[..., 12, frames]``, C first, of ``note_energies``.

    The middle register weighs most; each frame's maximum is 1, in silence 0. Amplitudes are added, not energies,
    of which the tune would leave little to the chords below it.
    """
    midi = torch.arange(LOWEST, HIGHEST + 1, device=notes.device)
    weight = torch.exp(-(((midi - 69) / 15) ** 2) / 2)
    folded = (notes.sqrt() * weight[:, None]).unflatten(-2, (-1, 12)).sum(-3)
    return folded / folded.amax(-2, keepdim=True).clamp_min(torch.finfo(folded.dtype).tiny)


def centred(chroma: Tensor) -> Tensor:
    """Frames ``[..., 12, frames]`` less their mean and of norm 1: the product of two is their Pearson correlation.

    A frame in which all pitch classes are alike, silence among them, becomes zero.
    """
    return torch.nn.functional.normalize(chroma - chroma.mean(-2, keepdim=True), dim=-2, eps=1e-6)
