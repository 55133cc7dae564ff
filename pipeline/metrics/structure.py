"""Structure: self-similarity of chroma (Foote 1999)."""

import math

import torch
from torch import Tensor

from pipeline.metrics.alignment import correlation
from pipeline.metrics.harmony import FRAME_RATE, centred

FRAMES_TOGETHER = 12  # 0.48 s
FAR_S = 4.0  # minimal distance of two times that count as repetition


def self_similarity(chroma: Tensor) -> Tensor:
    """Correlations ``[blocks, blocks]`` of 0.48 s blocks of a chroma ``[12, frames]``."""
    blocks = chroma.shape[-1] // FRAMES_TOGETHER
    mean = chroma[..., : blocks * FRAMES_TOGETHER].unflatten(-1, (blocks, FRAMES_TOGETHER)).mean(-1)
    columns = centred(mean)
    return columns.T @ columns


def same_structure(source: Tensor, cover: Tensor) -> float | str:
    """Correlation of the upper triangles of the self-similarities of two chromas ``[12, frames]``."""
    a, b = self_similarity(source), self_similarity(cover)
    upper = torch.ones_like(a, dtype=torch.bool).triu(1)
    return correlation(a[upper], b[upper])


def repetition(chroma: Tensor) -> float | str:
    """90th percentile of the similarity of times at least 4 s apart in a chroma ``[12, frames]``."""
    similarity = self_similarity(chroma)
    apart = math.ceil(FAR_S * FRAME_RATE / FRAMES_TOGETHER)
    if len(similarity) <= apart:
        return f"the cover is shorter than {FAR_S:g} s"
    far = similarity[torch.ones_like(similarity, dtype=torch.bool).triu(apart)]
    return float(far.sort().values[int(0.9 * (len(far) - 1))])
