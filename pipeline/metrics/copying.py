"""Copying: whether a cover is its source over again, sample by sample."""

import torch
from torch import Tensor

from pipeline.metrics.alignment import correlation, overlap
from pipeline.metrics.spectrum import RATE

REACH = int(1.5 * RATE)  # samples
BLOCK = 2**17


def waveform_correlation(source: Tensor, cover: Tensor) -> float | str:
    """Magnitude of the largest correlation of two mono waves ``[n]`` shifted by up to 1.5 s.

    The shift is found by FFT over blocks, so that ten minutes need no transform of their length.
    """
    length = min(len(source), len(cover))
    source, cover = source[:length], cover[:length]
    found = correlation(*overlap(source, cover, _best_lag(source, cover)))
    return found if isinstance(found, str) else abs(found)


def _best_lag(source: Tensor, cover: Tensor) -> int:
    """Samples that the cover is late, by the largest magnitude of the cross-correlation."""
    reach = min(REACH, len(source) // 2)
    block = BLOCK - 2 * reach
    ends = -len(source) % block
    mine = torch.nn.functional.pad(source, (0, ends)).unfold(0, block, block)
    others = torch.nn.functional.pad(cover, (reach, reach + ends)).unfold(0, BLOCK, block)
    total = torch.zeros(BLOCK // 2 + 1, dtype=torch.complex64, device=source.device)
    for own, other in zip(mine, others, strict=True):
        total += torch.fft.rfft(own, BLOCK).conj() * torch.fft.rfft(other)
    return int(torch.fft.irfft(total)[: 2 * reach + 1].abs().argmax()) - reach
