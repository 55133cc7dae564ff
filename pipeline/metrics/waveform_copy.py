"""Copying: whether a cover is its source over again, sample by sample."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.metrics.alignment import correlation, overlap
from pipeline.metrics.spectrum import RATE

REACH = int(0.08 * RATE)  # samples: two frames of the alignment
BLOCK = 2**15


def waveform_correlation(source: Tensor, cover: Tensor, lag: int) -> float | str:
    """Magnitude of the largest correlation of two mono waves ``[n]``, the cover about ``lag`` samples late.

    The exact lag, within 0.08 s, is found by FFT over blocks: ten minutes need no transform of their length.
    """
    source, cover = overlap(source, cover, lag)
    found = correlation(*overlap(source, cover, _exact_lag(source, cover)))
    return found if isinstance(found, str) else abs(found)


def _exact_lag(source: Tensor, cover: Tensor) -> int:
    """Samples that the cover is late, by the largest magnitude of the cross-correlation of two ``[n]``."""
    reach = min(REACH, len(source) // 2)
    block = BLOCK - 2 * reach
    ends = -len(source) % block
    mine = pad(source, (0, ends)).unfold(0, block, block)
    others = pad(cover, (reach, reach + ends)).unfold(0, BLOCK, block)
    total = torch.zeros(BLOCK // 2 + 1, dtype=torch.complex64, device=source.device)
    for own, other in zip(mine, others, strict=True):
        total += torch.fft.rfft(own, BLOCK).conj() * torch.fft.rfft(other)
    return int(torch.fft.irfft(total)[: 2 * reach + 1].abs().argmax()) - reach
