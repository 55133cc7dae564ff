"""Timbre: mean mel-frequency cepstral coefficients, independent of loudness."""

import torch
from torch import Tensor
from torchaudio.functional import create_dct

COEFFICIENTS = 20
SILENT_BELOW = -60.0  # dB below the loudest frame


def profile(levels: Tensor) -> Tensor:
    """Mean MFCCs 1..19 in dB ``[batch, 19]`` of mel levels in dB ``[batch, bands, frames]``.

    Davis and Mermelstein 1980, without coefficient 0 (loudness) and without silent frames.
    """
    basis = create_dct(COEFFICIENTS, levels.shape[1], "ortho")[:, 1:].to(levels.device)
    cepstra = levels.transpose(1, 2) @ basis
    loudest = levels.amax(1, keepdim=True).transpose(1, 2)
    heard = loudest > SILENT_BELOW + loudest.amax(1, keepdim=True)
    return (cepstra * heard).sum(1) / heard.sum(1).clamp_min(1)


def distance(source: Tensor, cover: Tensor) -> float:
    """Euclidean distance in dB of two profiles ``[19]``."""
    return float(torch.linalg.vector_norm(source - cover))
