"""Cache-blocked CPU implementation of the diffusion transformer; tokens are rows.

Computes the same sums as ``acestep.model.transformer`` in another order. Wide intermediate results reuse a few
buffers instead of newly mapped memory; operations between matrix products run on strips that fit in a core's
cache; short sequences share a product, which reads the weights once. Blocks depend on lengths only and products
are split by columns, one thread each (``acestep.runtime.threads``), so results depend neither on the rest of a
batch nor on the number of threads.

Legend: r conditions of one sequence, l tokens, h hidden width, n heads, m key/value heads, d head width,
i intermediate width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from acestep.model.attention import attention, window_attention
from acestep.model.config import BlockConfig
from acestep.model.layers import Positions, RMSNorm, SwiGLU, positions
from acestep.model.transformer_layers import Cross, DecoderLayer, LayerCross, Modulation
from acestep.runtime.threads import columns, share

BLOCK = 2048  # rows of a matrix product; more are no faster, fewer read the weights too often
STRIP = 64  # rows of an elementwise operation: half a megabyte at 2B widths, which fits in the L2 cache
SHARED_ELEMENTS = 2**18  # elements below which an elementwise operation runs on one thread


@dataclass(frozen=True)
class _Buffers:
    """Buffers shared by all layers: heads of whole sequences, and one block of rows of each width."""

    q: Tensor  # [r, n, l, d]
    k: Tensor  # [r, m, l, d]
    v: Tensor
    narrow: Tensor  # [rows, h]
    wide: Tensor  # [rows, i]


def decoded(
    layers: Sequence[DecoderLayer],
    config: BlockConfig,
    norm_out: RMSNorm,
    h: Tensor,
    modulation: Modulation,
    conditions: Sequence[Cross],
) -> Tensor:
    """All layers and the final norm for one embedded sequence under r conditions.

    Args:
        h: ``[1, l, h]``, contiguous; modified in place.
        modulation: of one time (leading axis 1).
        conditions: of one row each.

    Returns:
        ``[r, l, h]``.
    """
    at = positions(h.shape[1], config, h.device, h.dtype)
    buffers = _buffers(config, len(conditions), h)
    for index, (layer, window) in enumerate(zip(layers, config.windows, strict=True)):
        vectors = modulation.layers[0, index]
        attend_self(h, layer, vectors, at, window, buffers)
        if index == 0:
            # Before the first cross-attention, h does not depend on the condition.
            h = h.repeat(len(conditions), 1, 1)
        for row, condition in zip(h, conditions, strict=True):
            attend_condition(row, layer, condition.of(index), buffers)
        feed_forward(h, layer, vectors, buffers)
    shift, scale = modulation.final[0]
    rows = h.flatten(0, 1)
    normed(rows, norm_out, 1 + scale, shift, rows)
    return h


def attend_self(
    h: Tensor, layer: DecoderLayer, vectors: Tensor, at: Positions, window: int | None, buffers: _Buffers
) -> None:
    """Add gated self-attention to ``h`` ``[r, l, h]``; ``vectors`` ``[6, h]``."""
    shift, scale, gate = vectors[:3]
    attn = layer.self_attn
    q, k, v = buffers.q[: len(h)], buffers.k[: len(h)], buffers.v[: len(h)]
    for rows, tokens in blocks(len(h), h.shape[1]):
        block = h[rows, tokens].flatten(0, 1)
        x = normed(block, layer.self_attn_norm, 1 + scale, shift, buffers.narrow[: len(block)])
        here = Positions(at.cos[tokens], at.sin[tokens])
        project_heads(
            x,
            (
                (attn.q_proj, attn.q_norm, q[rows, :, tokens]),
                (attn.k_proj, attn.k_norm, k[rows, :, tokens]),
                (attn.v_proj, None, v[rows, :, tokens]),
            ),
            here,
        )
    heads = window_attention(q, k, v, window).transpose(1, 2).flatten(2)
    for rows, tokens in blocks(len(h), h.shape[1]):
        add_product(h[rows, tokens].flatten(0, 1), heads[rows, tokens].flatten(0, 1), attn.o_proj, gate)


def attend_condition(h: Tensor, layer: DecoderLayer, cross: LayerCross, buffers: _Buffers) -> None:
    """Add cross-attention to ``h`` ``[l, h]``; a tensor is a constant output, see ``ConstantCrossAttention``."""
    if isinstance(cross, Tensor):
        h.add_(cross[0])
        return
    attn, q = layer.cross_attn, buffers.q[:1]
    for _, tokens in blocks(1, len(h)):
        x = normed(h[tokens], layer.cross_attn_norm, None, None, buffers.narrow[: len(h[tokens])])
        project_heads(x, ((attn.q_proj, attn.q_norm, q[:, :, tokens]),), None)
    heads = attention(q, *cross).transpose(1, 2).flatten(2)[0]
    for _, tokens in blocks(1, len(h)):
        add_product(h[tokens], heads[tokens], attn.o_proj)


def feed_forward(h: Tensor, layer: DecoderLayer, vectors: Tensor, buffers: _Buffers) -> None:
    """Add the gated MLP to ``h`` ``[r, l, h]``."""
    shift, scale, gate = vectors[3:]
    for rows, tokens in blocks(len(h), h.shape[1]):
        block = h[rows, tokens].flatten(0, 1)
        x = normed(block, layer.mlp_norm, 1 + scale, shift, buffers.narrow[: len(block)])
        add_product(block, gated(x, layer.mlp, buffers.wide[: len(block)]), layer.mlp.down_proj, gate)


def gated(x: Tensor, mlp: SwiGLU, out: Tensor) -> Tensor:
    """``silu(gate(x)) * up(x)`` of rows ``[rows, h]``, written to ``out`` ``[rows, i]``."""
    parts = columns(mlp.up_proj.out_features)

    def gated_columns(pieces: Iterator[slice]) -> None:
        scratch, divisor = _scratch(x, parts), _scratch(x[:STRIP], parts)
        for part in pieces:
            wide = torch.mm(x, mlp.gate_proj.weight[part].T, out=out[:, part])
            up = torch.mm(x, mlp.up_proj.weight[part].T, out=_first(scratch, wide.shape))
            for strip in strips(len(wide)):
                y = wide[strip]
                # acestep.model.layers.silu in place
                y.div_(torch.neg(y, out=_first(divisor, y.shape)).exp_().add_(1)).mul_(up[strip])

    share(gated_columns, parts)
    return out


def normed(x: Tensor, norm: RMSNorm, scale: Tensor | None, shift: Tensor | None, out: Tensor) -> Tensor:
    """``norm(x) * scale + shift`` of rows ``[rows, h]``, written to ``out``, which may be ``x``."""
    weight = norm.weight if scale is None else norm.weight * scale

    def norm_strips(pieces: Iterator[slice]) -> None:
        for strip in pieces:
            y = torch.mul(x[strip], _inverse_rms(x[strip], norm.eps), out=out[strip])
            if shift is None:
                y.mul_(weight)
            else:
                torch.addcmul(shift, y, weight, out=y)

    _share_large(norm_strips, x)
    return out


def project_heads(
    x: Tensor, projections: Sequence[tuple[nn.Linear, RMSNorm | None, Tensor]], at: Positions | None
) -> None:
    """Project rows ``[rows, h]``, normalize and rotate; write each projection to heads ``[r, n, l, d]``."""
    parts = [
        (linear, norm, out, part)
        for linear, norm, out in projections
        for part in columns(linear.out_features, multiple=out.shape[3])
    ]

    def some_heads(pieces: Iterator[tuple[nn.Linear, RMSNorm | None, Tensor, slice]]) -> None:
        scratch = _scratch(x, [part for *_, part in parts])
        for linear, norm, out, part in pieces:
            y = torch.mm(x, linear.weight[part].T, out=_first(scratch, (len(x), part.stop - part.start)))
            width = out.shape[3]
            heads = out[:, part.start // width : part.stop // width]
            to_heads(y.view(*out.shape[::2], -1, width), norm, at, heads)

    share(some_heads, parts)


def to_heads(x: Tensor, norm: RMSNorm | None, at: Positions | None, out: Tensor) -> None:
    """Normalize (in place) and rotate ``[r, l, n, d]``; write to ``out`` ``[r, n, l, d]``."""
    half = x.shape[3] // 2
    for strip in strips(x.shape[1]):
        y, turned = x[:, strip], out[:, :, strip]
        if norm is not None:
            y.mul_(_inverse_rms(y, norm.eps)).mul_(norm.weight)
        y = y.transpose(1, 2)
        if at is None or norm is None:
            turned.copy_(y)
            continue
        cos, sin = at.cos[strip], at.sin[strip]
        torch.mul(y, cos, out=turned)
        turned[..., :half].addcmul_(y[..., half:], sin[:, :half], value=-1)
        turned[..., half:].addcmul_(y[..., :half], sin[:, half:])


def add_product(total: Tensor, x: Tensor, linear: nn.Linear, gate: Tensor | None = None) -> None:
    """Add ``linear(x) * gate`` to ``total`` ``[rows, h]``, without bias."""
    parts = columns(total.shape[1])

    def add_columns(pieces: Iterator[slice]) -> None:
        scratch = None if gate is None else _scratch(x, parts)
        for part in pieces:
            if scratch is None or gate is None:
                total[:, part].addmm_(x, linear.weight[part].T)
                continue
            y = torch.mm(x, linear.weight[part].T, out=_first(scratch, total[:, part].shape))
            total[:, part].addcmul_(y, gate[part])

    share(add_columns, parts)


def blocks(rows: int, length: int) -> Iterator[tuple[slice, slice]]:
    """(Sequences, tokens) of each matrix product: all sequences if they are short, else parts of one sequence."""
    if rows * length <= BLOCK:
        yield slice(0, rows), slice(0, length)
        return
    parts = -(-length // BLOCK)
    size = -(-length // parts)
    for row in range(rows):
        for start in range(0, length, size):
            yield slice(row, row + 1), slice(start, min(start + size, length))


def strips(rows: int) -> Iterator[slice]:
    for start in range(0, rows, STRIP):
        yield slice(start, min(start + STRIP, rows))


def _share_large(work: Callable[[Iterator[slice]], None], x: Tensor) -> None:
    """Process the strips of ``x``, on several threads if ``x`` is large."""
    if x.numel() < SHARED_ELEMENTS:
        work(strips(len(x)))
    else:
        share(work, strips(len(x)))


def _scratch(x: Tensor, parts: Sequence[slice]) -> Tensor:
    """Memory for a product of ``x`` with the widest part of a weight."""
    return x.new_empty(len(x) * max(part.stop - part.start for part in parts))


def _first(memory: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of ``shape`` at the start of ``memory``."""
    rows, width = shape
    return memory[: rows * width].view(rows, width)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _buffers(config: BlockConfig, conditions: int, h: Tensor) -> _Buffers:
    length = h.shape[1]
    sequences, tokens = next(blocks(conditions, length))  # the first is the largest
    rows = (sequences.stop - sequences.start) * (tokens.stop - tokens.start)
    return _Buffers(
        h.new_empty(conditions, config.heads, length, config.head_dim),
        h.new_empty(conditions, config.kv_heads, length, config.head_dim),
        h.new_empty(conditions, config.kv_heads, length, config.head_dim),
        h.new_empty(rows, config.hidden_size),
        h.new_empty(rows, config.intermediate_size),
    )
