"""Detect copies by the correlation of waveforms."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.metrics.alignment import correlation, overlap
from pipeline.metrics.spectrum import RATE

REACH = int(0.08 * RATE)  # search range in samples: two frames of the alignment
BLOCK = 2**15


def waveform_correlation(source: Tensor, cover: Tensor, lag: int) -> float | str:
    """Largest absolute correlation of two mono waves ``[n]``, the cover delayed by about ``lag`` samples.

    The exact lag, within 0.08 s, is found by block FFTs, which bounds memory.
    """
    source, cover = overlap(source, cover, lag)
    value = correlation(*overlap(source, cover, _exact_lag(source, cover)))
    return value if isinstance(value, str) else abs(value)


def _exact_lag(source: Tensor, cover: Tensor) -> int:
    """Delay of the cover in samples at the largest absolute cross-correlation of two ``[n]``."""
    reach = min(REACH, len(source) // 2)
    block = BLOCK - 2 * reach
    ends = -len(source) % block
    source_blocks = pad(source, (0, ends)).unfold(0, block, block)
    cover_blocks = pad(cover, (reach, reach + ends)).unfold(0, BLOCK, block)
    total = torch.zeros(BLOCK // 2 + 1, dtype=torch.complex64, device=source.device)
    for a, b in zip(source_blocks, cover_blocks, strict=True):
        total += torch.fft.rfft(a, BLOCK).conj() * torch.fft.rfft(b)
    return int(torch.fft.irfft(total)[: 2 * reach + 1].abs().argmax()) - reach
