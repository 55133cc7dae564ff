"""Melody: the most salient note of each frame, and the agreement of two recordings on it."""

import torch
from torch import Tensor

from pipeline.metrics.alignment import Alignment, overlap
from pipeline.metrics.harmony import LOWEST

OVERTONES = ((12, 0.5), (19, 0.33), (24, 0.25))  # semitones above, weight
FIRST, LAST = 60, 95  # MIDI notes C4..B6, the range of melodies
SILENT = -1


def leading_notes(notes: Tensor) -> Tensor:
    """Pitch class from C of the most salient note, ``[..., frames]`` of ``note_energies``; -1 in silence."""
    first, count = FIRST - LOWEST, LAST - FIRST + 1
    salience = notes.narrow(-2, first, count).clone()
    for above, weight in OVERTONES:
        available = min(count, notes.shape[-2] - first - above)
        salience.narrow(-2, 0, available).add_(notes.narrow(-2, first + above, available), alpha=weight)
    loudest, note = salience.max(-2)
    return torch.where(loudest > 0, (note + FIRST) % 12, SILENT)


def agreement(source: Tensor, cover: Tensor, fit: Alignment) -> tuple[float, float]:
    """Share of the source's frames ``[frames]`` whose leading note the cover has, and its chance level."""
    notes, cover_notes = overlap(source, cover, fit.lag)
    heard = notes != SILENT
    share = (heard & (cover_notes == _raised(notes, fit.key))).sum() / heard.sum().clamp_min(1)
    frames = torch.arange(len(source), device=source.device)
    wrong = cover[(frames + fit.wrong_lags[:, None]) % len(source)]
    heard = (source != SILENT).expand_as(wrong)
    chance = (heard & (wrong == _raised(source, fit.wrong_keys[:, None]))).sum() / heard.sum().clamp_min(1)
    return float(share), float(chance)


def _raised(notes: Tensor, semitones: Tensor | int) -> Tensor:
    return (notes + semitones) % 12
