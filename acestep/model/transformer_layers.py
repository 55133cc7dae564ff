"""Layers of the diffusion transformer, and their inputs that are constant along a run.

Legend: b batch, l tokens, h hidden width, s condition tokens, k schedule points, n layers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acestep.model.attention import Window, attention, window_attention
from acestep.model.config import BlockConfig
from acestep.model.layers import Attention, Linear, Positions, RMSNorm, SwiGLU

TIME_FREQUENCIES = 256


@dataclass(frozen=True)
class Modulation:
    """Adaptive-norm vectors of k times: ``layers`` ``[k, n, 6, h]``, ``final`` ``[k, 2, h]``.

    The six vectors are shift, scale, gate of self-attention, then shift, scale, gate of the MLP.
    """

    layers: Tensor
    final: Tensor

    def at(self, index: int) -> "Modulation":
        """The modulation of one schedule point, with a leading axis of 1."""
        return Modulation(self.layers[index : index + 1], self.final[index : index + 1])

    def row(self, index: int) -> "Modulation":
        """The modulation of one batch row."""
        return self if len(self.layers) == 1 else self.at(index)


@dataclass(frozen=True)
class CrossAttention:
    """Keys and values ``[b, m, s, d]`` of one condition, per layer."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.keys + self.values

    def of(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer."""
        return self.keys[layer], self.values[layer]

    def row(self, index: int) -> "CrossAttention":
        """The condition of one batch row; a condition of one row applies to all."""
        if len(self.keys[0]) == 1:
            return self
        row = slice(index, index + 1)
        return CrossAttention(tuple(k[row] for k in self.keys), tuple(v[row] for v in self.values))


@dataclass(frozen=True)
class ConstantCrossAttention:
    """Output ``[1, 1, h]`` of cross-attention per layer, for a condition of identical tokens.

    Exact: softmax over identical keys is uniform, so every query receives the same value.
    """

    outputs: tuple[Tensor, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.outputs

    def of(self, layer: int) -> Tensor:
        """Output of one layer."""
        return self.outputs[layer]

    def row(self, index: int) -> "ConstantCrossAttention":
        """The same output for every batch row."""
        return self


Cross = CrossAttention | ConstantCrossAttention
LayerCross = tuple[Tensor, Tensor] | Tensor  # of one layer: keys and values, or the constant output


class TimestepEmbedding(nn.Module):
    """Sinusoidal embedding of a flow time in [0, 1] and its projection to modulation vectors; fp32."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.linear_1 = Linear(TIME_FREQUENCIES, hidden_size)
        self.linear_2 = Linear(hidden_size, hidden_size)
        self.time_proj = Linear(hidden_size, 6 * hidden_size)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``[k]`` -> embedding ``[k, h]``, projection ``[k, 6, h]``."""
        half = TIME_FREQUENCIES // 2
        exponent = torch.arange(half, device=t.device, dtype=torch.float32) / half
        angle = 1000.0 * t.float()[:, None] * torch.exp(-math.log(10_000.0) * exponent)
        features = torch.cat((angle.cos(), angle.sin()), dim=-1)
        embedding = self.linear_2(F.silu(self.linear_1(features)))
        return embedding, self.time_proj(F.silu(embedding)).unflatten(-1, (6, -1))


class DecoderLayer(nn.Module):
    """Modulated self-attention, unmodulated cross-attention, modulated MLP."""

    def __init__(self, config: BlockConfig):
        super().__init__()
        self.self_attn_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.cross_attn_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.cross_attn = Attention(config)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config)
        self.scale_shift_table = nn.Parameter(torch.zeros(1, 6, config.hidden_size))

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        at: Positions,
        window: Window,
        crosses: Sequence[LayerCross],
        copies: int = 1,
    ) -> Tensor:
        """``[b, l, h]`` -> ``[copies * b, l, h]``; ``modulation`` is ``[1, 6, h]`` or one per row.

        Args:
            crosses: cross-attention of each equal part of the rows, in order.
            copies: number of conditions to evaluate; x is repeated after self-attention. Exact in the first layer,
                whose self-attention does not depend on the condition.
        """
        x = self.attend_self(x, per_row(modulation, len(x)), at, window).repeat(copies, 1, 1)
        parts = [
            self.attend_condition(part, cross) for part, cross in zip(x.chunk(len(crosses)), crosses, strict=True)
        ]
        x = parts[0] if len(parts) == 1 else torch.cat(parts)
        return self.feed_forward(x, per_row(modulation, len(x)))

    def attend_self(self, x: Tensor, modulation: Tensor, at: Positions, window: Window) -> Tensor:
        """``x`` plus gated self-attention; ``modulation`` is ``[b, 6, h]``."""
        shift, scale, gate = modulation[:, :3].unsqueeze(2).unbind(1)
        q, k, v = self.self_attn.placed(self.self_attn_norm(x) * (1 + scale) + shift, at)
        return x + gate * self.self_attn.merged(window_attention(q, k, v, window))

    def attend_condition(self, x: Tensor, cross: LayerCross) -> Tensor:
        """``x`` plus cross-attention over all condition tokens, without gate, mask and positions."""
        if isinstance(cross, Tensor):
            return x + cross
        q = self.cross_attn.queries(self.cross_attn_norm(x))
        return x + self.cross_attn.merged(attention(q, *cross))

    def feed_forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """``x`` plus the gated MLP."""
        shift, scale, gate = modulation[:, 3:].unsqueeze(2).unbind(1)
        return x + gate * self.mlp(self.mlp_norm(x) * (1 + scale) + shift)


def per_row(vectors: Tensor, rows: int) -> Tensor:
    """Repeat vectors ``[1 or b, k, h]`` for ``rows`` rows, a multiple of b."""
    return vectors if len(vectors) == 1 else vectors.repeat(rows // len(vectors), 1, 1)
