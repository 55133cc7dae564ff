"""The diffusion transformer ("decoder" in the checkpoint): velocity of the flow at one time.

Legend: b batch, t latent frames (25 Hz), c latent channels, l = ceil(t / 2) tokens, h hidden width,
s condition tokens, k schedule points, n layers.

What does not change along a run is computed once and handed in: the modulation of a whole schedule
(``modulation``), the cross-attention keys and values of a condition (``cross_attention``) and the
constant that the null condition's cross-attention amounts to (``null_cross_attention``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acestep.model.attention import Window, attention, block_mask, repeat_heads, window_attention
from acestep.model.config import BlockConfig, ModelConfig
from acestep.model.cpu_dispatch import works_in_rows
from acestep.model.layers import Attention, Linear, Positions, RMSNorm, SwiGLU, positions
from acestep.model.transformer_cpu import decoded
from acestep.runtime.threads import parallel_ops, serial_ops

TIME_FREQUENCIES = 256
MAX_VARIANTS = 16  # of a compiled layer


@dataclass(frozen=True)
class Modulation:
    """Adaptive-norm vectors of k times: ``layers`` ``[k, n, 6, h]``, ``final`` ``[k, 2, h]``.

    The six are shift, scale, gate of self-attention, then shift, scale, gate of the MLP.
    """

    layers: Tensor
    final: Tensor

    def at(self, index: int) -> "Modulation":
        """The modulation of one schedule point, with a leading axis of 1 that broadcasts over a batch."""
        return Modulation(self.layers[index : index + 1], self.final[index : index + 1])

    def row(self, index: int) -> "Modulation":
        """The modulation of one row of a batch that has one for all rows, or one for each."""
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
        """What one layer reads."""
        return self.keys[layer], self.values[layer]

    def row(self, index: int) -> "CrossAttention":
        """The condition of one row of the batch, or the one of all rows."""
        if len(self.keys[0]) == 1:
            return self
        only = slice(index, index + 1)
        return CrossAttention(tuple(k[only] for k in self.keys), tuple(v[only] for v in self.values))


@dataclass(frozen=True)
class ConstantCrossAttention:
    """Output ``[1, 1, h]`` of cross-attention per layer, for a condition whose tokens are all the same.

    Softmax over identical keys is uniform, so every query gets the one value: exact, and no attention.
    """

    outputs: tuple[Tensor, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.outputs

    def of(self, layer: int) -> Tensor:
        """What one layer adds."""
        return self.outputs[layer]

    def row(self, index: int) -> "ConstantCrossAttention":
        """Itself: it is the same for every row of a batch."""
        return self


Cross = CrossAttention | ConstantCrossAttention
LayerCross = tuple[Tensor, Tensor] | Tensor  # what one layer reads: keys and values, or what they amount to


class TimestepEmbedding(nn.Module):
    """Sinusoidal features of a flow time in [0, 1], then the vectors that modulate each layer; fp32."""

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
    """Modulated self-attention, plain cross-attention, modulated MLP."""

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
        """``[b, l, h]`` -> ``[copies * b, l, h]``; ``modulation`` is ``[1, 6, h]`` or one for each row.

        Args:
            crosses: what equal parts of the rows read, in the order of the rows.
            copies: of x, to be read under as many conditions. Exact: until the first cross-attention nothing
                has read a condition, so that what precedes it is the same for all of them.
        """
        x = self.attend_self(x, _per_row(modulation, len(x)), at, window).repeat(copies, 1, 1)
        parts = [
            self.attend_condition(part, cross) for part, cross in zip(x.chunk(len(crosses)), crosses, strict=True)
        ]
        x = parts[0] if len(parts) == 1 else torch.cat(parts)
        return self.feed_forward(x, _per_row(modulation, len(x)))

    def attend_self(self, x: Tensor, modulation: Tensor, at: Positions, window: Window) -> Tensor:
        """``x`` plus gated self-attention; ``modulation`` is ``[b, 6, h]``."""
        shift, scale, gate = modulation[:, :3].unsqueeze(2).unbind(1)
        q, k, v = self.self_attn.placed(self.self_attn_norm(x) * (1 + scale) + shift, at)
        return x + gate * self.self_attn.merged(window_attention(q, k, v, window))

    def attend_condition(self, x: Tensor, cross: LayerCross) -> Tensor:
        """``x`` plus cross-attention over every condition token, or what that amounts to.

        No gate, no mask, no positions.
        """
        if isinstance(cross, Tensor):
            return x + cross
        q = self.cross_attn.queries(self.cross_attn_norm(x))
        return x + self.cross_attn.merged(attention(q, *cross))

    def feed_forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """``x`` plus the gated MLP."""
        shift, scale, gate = modulation[:, 3:].unsqueeze(2).unbind(1)
        return x + gate * self.mlp(self.mlp_norm(x) * (1 + scale) + shift)


class DiffusionTransformer(nn.Module):
    """Predicts the velocity noise - data of latents ``x`` at a flow time (1 noise, 0 data)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.compiled = False
        block = config.decoder
        self.config = block
        self.patch_size = config.patch_size
        self.proj_in = nn.Conv1d(config.in_channels, block.hidden_size, config.patch_size, config.patch_size)
        self.time_embed = TimestepEmbedding(block.hidden_size)
        self.time_embed_r = TimestepEmbedding(block.hidden_size)
        self.condition_embedder = Linear(config.encoder.hidden_size, block.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(block) for _ in block.windows)
        self.norm_out = RMSNorm(block.hidden_size, block.rms_norm_eps)
        self.scale_shift_table = nn.Parameter(torch.zeros(1, 2, block.hidden_size))
        self.proj_out = nn.ConvTranspose1d(
            block.hidden_size, config.latent_channels, config.patch_size, config.patch_size
        )

    @property
    def blocks(self) -> list[DecoderLayer]:
        return cast(list[DecoderLayer], list(self.layers))

    @property
    def dtype(self) -> torch.dtype:
        return self.proj_in.weight.dtype

    def compile_layers(self) -> None:
        """Run each layer through ``torch.compile``, and windows through FlexAttention, from the next call on.

        For GPUs: on a CPU, rows (``acestep.model.transformer_cpu``) are faster. All layers of one kind share their
        code, which is compiled at its first call, for a minute or so, and serves every length.
        """
        # Windowed or not, guided or not, first or later: beyond its limit the compiler would run layers as they
        # are, where FlexAttention holds every score.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_VARIANTS)
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        self.compiled = True
        for layer in self.blocks:
            layer.compile(dynamic=True)

    def modulation(self, t: Tensor, r: Tensor | None = None) -> Modulation:
        """Modulation of the flow times ``t`` ``[k]``, once per schedule.

        Args:
            r: end times ``[k]`` of a mean-flow model; None means r = t, as in all inference.
        """
        embedding, projection = self.time_embed(t)
        embedding_r, projection_r = self.time_embed_r(torch.zeros_like(t) if r is None else t - r)
        embedding, projection = embedding + embedding_r, projection + projection_r
        tables = torch.cat([layer.scale_shift_table for layer in self.blocks]).float()
        layers = tables + projection[:, None]
        final = self.scale_shift_table.float() + embedding[:, None]
        return Modulation(layers.to(self.dtype), final.to(self.dtype))

    def cross_attention(self, condition: Tensor) -> CrossAttention:
        """Keys and values of packed condition tokens ``[b, s, encoder width]``, once per condition."""
        tokens = self.condition_embedder(condition.to(self.dtype))
        # One head after the other in memory, as attention reads them at every step.
        keys = tuple(layer.cross_attn.keys(tokens).contiguous() for layer in self.blocks)
        values = tuple(layer.cross_attn.values(tokens).contiguous() for layer in self.blocks)
        return CrossAttention(keys, values)

    def null_cross_attention(self, null: Tensor) -> ConstantCrossAttention:
        """Cross-attention over copies of one token ``[1, 1, encoder width]``, once per model."""
        tokens = self.condition_embedder(null.to(self.dtype))
        outputs = []
        for layer in self.blocks:
            value = repeat_heads(layer.cross_attn.values(tokens), self.config.heads)
            outputs.append(layer.cross_attn.merged(value))
        return ConstantCrossAttention(tuple(outputs))

    def forward(self, x: Tensor, context: Tensor, modulation: Modulation, cross: Cross) -> Tensor:
        """Velocity ``[b, t, c]`` (fp32) of ``x`` ``[b, t, c]`` given ``context`` ``[b, t, 2c]``.

        Args:
            modulation: of one time for the whole batch (leading axis 1) or per row (leading axis b).
            cross: what ``cross_attention`` or ``null_cross_attention`` returned.
        """
        return self._velocities(x, context, modulation, (cross,))[0]

    def guided(
        self,
        x: Tensor,
        context: Tensor,
        modulation: Modulation,
        cross: CrossAttention,
        null: ConstantCrossAttention,
    ) -> tuple[Tensor, Tensor]:
        """Velocities of ``x`` with a condition and with the null condition; arguments as in ``forward``."""
        conditional, unconditional = self._velocities(x, context, modulation, (cross, null))
        return conditional, unconditional

    def _velocities(
        self, x: Tensor, context: Tensor, modulation: Modulation, conditions: tuple[Cross, ...]
    ) -> tuple[Tensor, ...]:
        """Velocity under each of several conditions, sharing what comes before they are read."""
        read = [tensor for condition in conditions for tensor in condition.tensors]
        if self.compiled or not works_in_rows(self, self.proj_in.weight, x, context, *read):
            with parallel_ops(x):
                return self._embedded_and_decoded(x, context, modulation, conditions, in_rows=False)
        alone = []
        with serial_ops():
            for i in range(len(x)):
                only, of_row = slice(i, i + 1), tuple(condition.row(i) for condition in conditions)
                alone.append(
                    self._embedded_and_decoded(x[only], context[only], modulation.row(i), of_row, in_rows=True)
                )
        return alone[0] if len(alone) == 1 else tuple(torch.cat(rows) for rows in zip(*alone, strict=True))

    def _embedded_and_decoded(
        self, x: Tensor, context: Tensor, modulation: Modulation, conditions: tuple[Cross, ...], in_rows: bool
    ) -> tuple[Tensor, ...]:
        frames = x.shape[1]
        h = torch.cat((context, x), dim=-1).to(self.dtype)
        h = F.pad(h, (0, 0, 0, -frames % self.patch_size))
        h = self.proj_in(h.transpose(1, 2)).transpose(1, 2).contiguous()
        h = decoded(self, h, modulation, conditions) if in_rows else self._decoded(h, modulation, conditions)
        velocity = self.proj_out(h.transpose(1, 2)).transpose(1, 2)[:, :frames].float()
        return velocity.chunk(len(conditions))

    def _decoded(self, h: Tensor, modulation: Modulation, conditions: tuple[Cross, ...]) -> Tensor:
        """Embedded tokens ``[b, l, h]`` through all layers and the last norm -> ``[conditions * b, l, h]``."""
        at = positions(h.shape[1], self.config, h.device, h.dtype)
        windows: Sequence[Window] = self.config.windows
        if self.compiled:
            windows = [block_mask(h.shape[1], window, h.device) for window in self.config.windows]
        for index, (layer, window) in enumerate(zip(self.blocks, windows, strict=True)):
            crosses = [condition.of(index) for condition in conditions]
            copies = len(conditions) if index == 0 else 1
            h = layer(h, modulation.layers[:, index], at, window, crosses, copies)
        shift, scale = _per_row(modulation.final, len(h)).unsqueeze(2).unbind(1)
        return self.norm_out(h) * (1 + scale) + shift


def _per_row(vectors: Tensor, rows: int) -> Tensor:
    """Vectors ``[1 or b, k, h]`` for rows that hold a batch of b once or several times over."""
    return vectors if len(vectors) == 1 else vectors.repeat(rows // len(vectors), 1, 1)
