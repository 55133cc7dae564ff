"""The diffusion transformer ("decoder" in the checkpoint): velocity of the flow at one time.

Legend: b batch, t latent frames (25 Hz), c latent channels, l = ceil(t / 2) tokens, h hidden width,
s condition tokens, k schedule points, n layers.

What does not change along a run is computed once and handed in: the modulation of a whole schedule
(``modulation``), the cross-attention keys and values of a condition (``cross_attention``) and the
constant that the null condition's cross-attention amounts to (``null_cross_attention``).
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acestep.config import BlockConfig, ModelConfig
from acestep.layers import Attention, Positions, RMSNorm, SwiGLU, positions

TIME_FREQUENCIES = 256


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


@dataclass(frozen=True)
class CrossAttention:
    """Keys and values ``[b, m, s, d]`` of one condition, per layer."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True)
class ConstantCrossAttention:
    """Output ``[b, 1, h]`` of cross-attention per layer, for a condition whose tokens are all the same.

    Softmax over identical keys is uniform, so every query gets the one value: exact, and no attention.
    """

    outputs: tuple[Tensor, ...]


class TimestepEmbedding(nn.Module):
    """Sinusoidal features of a flow time in [0, 1], then the vectors that modulate each layer; fp32."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.linear_1 = nn.Linear(TIME_FREQUENCIES, hidden_size)
        self.linear_2 = nn.Linear(hidden_size, hidden_size)
        self.time_proj = nn.Linear(hidden_size, 6 * hidden_size)

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

    def attend_self(self, x: Tensor, modulation: Tensor, at: Positions, visible: Tensor | None) -> Tensor:
        """``x`` plus gated self-attention; ``modulation`` is ``[b, 6, h]``."""
        shift, scale, gate = modulation[:, :3].unsqueeze(2).unbind(1)
        normed = self.self_attn_norm(x) * (1 + scale) + shift
        return x + gate * self.self_attn.over_itself(normed, at, visible)

    def attend_condition(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """``x`` plus cross-attention over every condition token: no gate, no mask, no positions."""
        return x + self.cross_attn.attend(self.cross_attn.queries(self.cross_attn_norm(x)), keys, values)

    def feed_forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """``x`` plus the gated MLP."""
        shift, scale, gate = modulation[:, 3:].unsqueeze(2).unbind(1)
        return x + gate * self.mlp(self.mlp_norm(x) * (1 + scale) + shift)


class DiffusionTransformer(nn.Module):
    """Predicts the velocity noise - data of latents ``x`` at a flow time (1 noise, 0 data)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        block = config.decoder
        self.config = block
        self.patch_size = config.patch_size
        self.proj_in = nn.Conv1d(config.in_channels, block.hidden_size, config.patch_size, config.patch_size)
        self.time_embed = TimestepEmbedding(block.hidden_size)
        self.time_embed_r = TimestepEmbedding(block.hidden_size)
        self.condition_embedder = nn.Linear(config.encoder.hidden_size, block.hidden_size)
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
        keys = tuple(layer.cross_attn.keys(tokens) for layer in self.blocks)
        return CrossAttention(keys, tuple(layer.cross_attn.values(tokens) for layer in self.blocks))

    def null_cross_attention(self, null: Tensor) -> ConstantCrossAttention:
        """Cross-attention over copies of one token ``[1, 1, encoder width]``, once per model."""
        tokens = self.condition_embedder(null.to(self.dtype))
        outputs = []
        for layer in self.blocks:
            value = layer.cross_attn.repeat_heads(layer.cross_attn.values(tokens))
            outputs.append(layer.cross_attn.o_proj(value.transpose(1, 2).flatten(2)))
        return ConstantCrossAttention(tuple(outputs))

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        modulation: Modulation,
        cross: CrossAttention | ConstantCrossAttention,
    ) -> Tensor:
        """Velocity ``[b, t, c]`` (fp32) of ``x`` ``[b, t, c]`` given ``context`` ``[b, t, 2c]``.

        Args:
            modulation: of one time for the whole batch (leading axis 1) or per row (leading axis b).
            cross: what ``cross_attention`` or ``null_cross_attention`` returned.
        """
        frames = x.shape[1]
        h = torch.cat((context, x), dim=-1).to(self.dtype)
        h = F.pad(h, (0, 0, 0, -frames % self.patch_size))
        h = self.proj_in(h.transpose(1, 2)).transpose(1, 2)
        at = positions(h.shape[1], self.config, h.device)
        for index, (layer, window) in enumerate(zip(self.blocks, self.config.windows, strict=True)):
            vectors = modulation.layers[:, index]
            h = layer.attend_self(h, vectors, at, at.visible(window))
            if isinstance(cross, ConstantCrossAttention):
                h = h + cross.outputs[index]
            else:
                h = layer.attend_condition(h, cross.keys[index], cross.values[index])
            h = layer.feed_forward(h, vectors)
        shift, scale = modulation.final.unsqueeze(2).unbind(1)
        h = self.norm_out(h) * (1 + scale) + shift
        return self.proj_out(h.transpose(1, 2)).transpose(1, 2)[:, :frames].float()

    def guided(
        self,
        x: Tensor,
        context: Tensor,
        modulation: Modulation,
        cross: CrossAttention,
        null: ConstantCrossAttention,
    ) -> tuple[Tensor, Tensor]:
        """Velocities of ``x`` with a condition and with the null condition; arguments as in ``forward``."""
        return self(x, context, modulation, cross), self(x, context, modulation, null)
