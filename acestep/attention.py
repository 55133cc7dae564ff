"""Softmax attention over all keys, and over a window of keys without ever holding a length x length mask.

Legend: b batch, l queries, s keys, n query heads, m key/value heads, d head width. Query head i reads
key/value head ``i // (n / m)``.
"""

from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

# In tokens to each side; None sees everything. A block mask is for compiled layers: uncompiled, FlexAttention
# would hold every score.
Window = int | BlockMask | None

CPU_BLOCK = 64  # queries; the least waste of keys that still keeps the matrix products efficient
GPU_BLOCK = 1024  # few launches matter more there than wasted keys


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """``[b, m, s, d]`` -> ``[b, heads, s, d]``."""
    return x.repeat_interleave(heads // x.shape[1], dim=1)


def attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
    """Queries ``[b, n, l, d]`` over keys and values ``[b, m, s, d]`` -> ``[b, n, l, d]``.

    Args:
        visible: bool (True where seen) or additive mask that broadcasts to ``[b, n, l, s]``.
    """
    # With a mask, CUDA's fused kernels refuse grouped heads; elsewhere they need not be repeated.
    if visible is not None and q.device.type != "cpu":
        k, v = repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=k.shape[1] != q.shape[1])


def window_attention(q: Tensor, k: Tensor, v: Tensor, window: Window) -> Tensor:
    """``attention`` of positions with each other, where query i sees the keys j with ``|i - j| <= window``.

    Queries go in blocks, each with the slice of keys that any of them sees. Exact: what is left out of a slice
    has weight zero in the whole. Time and memory are linear in the length.
    """
    if isinstance(window, BlockMask):
        return cast(Tensor, flex_attention(q, k, v, block_mask=window, enable_gqa=k.shape[1] != q.shape[1]))
    length = q.shape[2]
    if window is None or window >= length - 1:
        return attention(q, k, v)
    block = CPU_BLOCK if q.device.type == "cpu" else GPU_BLOCK
    out = q.new_empty(q.shape[0], length, q.shape[1], q.shape[3]).transpose(1, 2)
    for start in range(0, length, block):
        stop = min(start + block, length)
        first, last = max(0, start - window), min(length, stop + window)
        seen = band(stop - start, last - first, start - first, window, q.device)
        out[:, :, start:stop] = attention(q[:, :, start:stop], k[:, :, first:last], v[:, :, first:last], seen)
    return out


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # as in ``acestep.layers.positions``
def band(queries: int, keys: int, offset: int, window: int, device: torch.device) -> Tensor:
    """Mask ``[queries, keys]``, True where visible, for queries that begin ``offset`` positions after the keys."""
    i = torch.arange(queries, device=device)[:, None] + offset
    return (i - torch.arange(keys, device=device)).abs() <= window


@lru_cache(maxsize=32)
def block_mask(length: int, window: int | None, device: torch.device) -> BlockMask | None:
    """``window`` for compiled layers: which blocks of keys are visited, and which of those need a mask."""
    if window is None or window >= length - 1:
        return None

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i - j).abs() <= window

    return create_block_mask(visible, None, None, length, length, device)
