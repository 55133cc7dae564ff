"""Softmax attention, full and windowed; the windowed form needs no length x length mask.

Legend: b batch, l queries, s keys, n query heads, m key/value heads, d head width. Query head i reads
key/value head ``i // (n / m)``.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from acestep.runtime.threads import in_pieces, share

# Tokens to each side; None is full attention. Block masks are for compiled layers only: uncompiled FlexAttention
# materializes all scores.
Window = int | BlockMask | None

CPU_BLOCK = 64  # queries per block: few wasted keys, still efficient matrix products
SHARED_PAIRS = 2**19  # query-key pairs below which one thread does all the work
MANY_ROWS = 16  # batch size from which work is split by rows, into this many pieces
GPU_BLOCK = 1024  # larger than on a CPU, to launch fewer kernels


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """``[b, m, s, d]`` -> ``[b, heads, s, d]``."""
    return x.repeat_interleave(heads // x.shape[1], dim=1)


def attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
    """Queries ``[b, n, l, d]`` over keys and values ``[b, m, s, d]`` -> ``[b, n, l, d]``.

    Args:
        visible: bool (True is visible) or additive mask that broadcasts to ``[b, n, l, s]``.
    """
    # CUDA's fused kernels do not support grouped heads together with a mask.
    if visible is not None and q.device.type != "cpu":
        k, v = repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])
    pairs = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
    if pairs < SHARED_PAIRS or not in_pieces(q, k, v):
        return _attention(q, k, v, visible)
    out = q.new_empty(q.shape[0], q.shape[2], q.shape[1], q.shape[3]).transpose(1, 2)
    group = q.shape[1] // k.shape[1]

    def some_heads(pieces: Iterator[tuple[slice, slice, slice]]) -> None:
        for rows, heads, kv in pieces:
            seen = None if visible is None else _part(visible, rows, heads)
            out[rows, heads] = _attention(q[rows, heads], k[rows, kv], v[rows, kv], seen)

    share(some_heads, _pieces(len(q), k.shape[1], group))
    return out


def _attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=k.shape[1] != q.shape[1])


def _part(visible: Tensor, rows: slice, heads: slice) -> Tensor:
    """The part of a mask for some rows and heads."""
    visible = visible[(None,) * (4 - visible.dim())]
    return visible[rows if len(visible) > 1 else slice(None), heads if visible.shape[1] > 1 else slice(None)]


def _pieces(batch: int, kv_heads: int, group: int) -> list[tuple[slice, slice, slice]]:
    """(Rows, query heads, key/value heads) of each piece: parts of a large batch, else single key/value heads."""
    if batch >= MANY_ROWS:
        part = -(-batch // MANY_ROWS)
        everything = slice(None)
        return [(slice(i, i + part), everything, everything) for i in range(0, batch, part)]
    return [
        (slice(row, row + 1), slice(head * group, (head + 1) * group), slice(head, head + 1))
        for row in range(batch)
        for head in range(kv_heads)
    ]


def window_attention(q: Tensor, k: Tensor, v: Tensor, window: Window) -> Tensor:
    """Self-attention in which query i sees the keys j with ``|i - j| <= window``.

    Processes blocks of queries, each with the slice of keys visible to any of them. Exact, because all other keys
    have weight zero. Time and memory are linear in the length.
    """
    if isinstance(window, BlockMask):
        return cast(Tensor, flex_attention(q, k, v, block_mask=window, enable_gqa=k.shape[1] != q.shape[1]))
    length = q.shape[2]
    if window is None or window >= length - 1:
        return attention(q, k, v)
    block = CPU_BLOCK if q.device.type == "cpu" else GPU_BLOCK
    out = q.new_empty(q.shape[0], length, q.shape[1], q.shape[3]).transpose(1, 2)

    def some_queries(starts: Iterator[int]) -> None:
        for start in starts:
            stop = min(start + block, length)
            first, last = max(0, start - window), min(length, stop + window)
            seen = band(stop - start, last - first, start - first, window, q.device)
            part = q[:, :, start:stop], k[:, :, first:last], v[:, :, first:last]
            out[:, :, start:stop] = attention(*part, seen)

    starts = range(0, length, block)
    if in_pieces(q, k, v):
        share(some_queries, starts)
    else:
        some_queries(iter(starts))
    return out


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # as in ``acestep.model.layers.positions``
def band(queries: int, keys: int, offset: int, window: int, device: torch.device) -> Tensor:
    """Visibility mask ``[queries, keys]`` for queries that begin ``offset`` positions after the keys."""
    i = torch.arange(queries, device=device)[:, None] + offset
    return (i - torch.arange(keys, device=device)).abs() <= window


@lru_cache(maxsize=32)
def block_mask(length: int, window: int | None, device: torch.device) -> BlockMask | None:
    """FlexAttention block mask of a window, for compiled layers; None for full attention."""
    if window is None or window >= length - 1:
        return None

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i - j).abs() <= window

    return create_block_mask(visible, None, None, length, length, device)
