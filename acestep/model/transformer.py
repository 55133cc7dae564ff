"""The diffusion transformer ("decoder" in the checkpoint): velocity of the flow at one time.

Legend: b batch, t latent frames (25 Hz), c latent channels, l = ceil(t / 2) tokens, h hidden width,
s condition tokens, k schedule points, n layers.

Inputs that are constant along a run are computed once: the modulation of a schedule (``modulation``), the
cross-attention keys and values of a condition (``cross_attention``), and the constant cross-attention output of
the null condition (``null_cross_attention``).
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acestep.model.attention import Window, block_mask, repeat_heads
from acestep.model.config import ModelConfig
from acestep.model.cpu_dispatch import works_in_rows
from acestep.model.layers import Linear, RMSNorm, positions
from acestep.model.transformer_cpu import decoded
from acestep.model.transformer_layers import (
    ConstantCrossAttention,
    Cross,
    CrossAttention,
    DecoderLayer,
    Modulation,
    TimestepEmbedding,
    per_row,
)
from acestep.runtime.threads import parallel_ops, serial_ops

MAX_VARIANTS = 16  # compiled variants of a layer


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
        """Compile each layer with ``torch.compile``, with FlexAttention for windows.

        For GPUs only: on a CPU, ``acestep.model.transformer_cpu`` is faster. Layers share compiled code, which is
        compiled at its first call (about a minute) for all lengths.
        """
        # Variants: windowed or not, guided or not, first layer or later. Beyond its limit, the compiler would fall
        # back to eager mode, where FlexAttention materializes all scores.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_VARIANTS)
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        self.compiled = True
        for layer in self.blocks:
            layer.compile(dynamic=True)

    def modulation(self, t: Tensor, r: Tensor | None = None) -> Modulation:
        """Modulation of the flow times ``t`` ``[k]``.

        Args:
            r: end times ``[k]`` of a mean-flow model; None means r = t, as in inference.
        """
        embedding, projection = self.time_embed(t)
        embedding_r, projection_r = self.time_embed_r(torch.zeros_like(t) if r is None else t - r)
        embedding, projection = embedding + embedding_r, projection + projection_r
        tables = torch.cat([layer.scale_shift_table for layer in self.blocks]).float()
        layers = tables + projection[:, None]
        final = self.scale_shift_table.float() + embedding[:, None]
        return Modulation(layers.to(self.dtype), final.to(self.dtype))

    def cross_attention(self, condition: Tensor) -> CrossAttention:
        """Keys and values of condition tokens ``[b, s, encoder width]``."""
        tokens = self.condition_embedder(condition.to(self.dtype))
        # Contiguous per head, as attention reads them at every step.
        keys = tuple(layer.cross_attn.keys(tokens).contiguous() for layer in self.blocks)
        values = tuple(layer.cross_attn.values(tokens).contiguous() for layer in self.blocks)
        return CrossAttention(keys, values)

    def null_cross_attention(self, null: Tensor) -> ConstantCrossAttention:
        """Cross-attention output for a condition that repeats one token ``[1, 1, encoder width]``."""
        tokens = self.condition_embedder(null.to(self.dtype))
        outputs = []
        for layer in self.blocks:
            value = repeat_heads(layer.cross_attn.values(tokens), self.config.heads)
            outputs.append(layer.cross_attn.merged(value))
        return ConstantCrossAttention(tuple(outputs))

    def forward(self, x: Tensor, context: Tensor, modulation: Modulation, cross: Cross) -> Tensor:
        """Velocity ``[b, t, c]`` (fp32) of ``x`` ``[b, t, c]`` given ``context`` ``[b, t, 2c]``.

        Args:
            modulation: one time for the whole batch (leading axis 1) or one per row (leading axis b).
            cross: result of ``cross_attention`` or ``null_cross_attention``.
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
        """Conditional and unconditional velocities of ``x``; arguments as in ``forward``."""
        conditional, unconditional = self._velocities(x, context, modulation, (cross, null))
        return conditional, unconditional

    def _velocities(
        self, x: Tensor, context: Tensor, modulation: Modulation, conditions: tuple[Cross, ...]
    ) -> tuple[Tensor, ...]:
        """Velocity under each condition; computation before the first cross-attention is shared."""
        tensors = [tensor for condition in conditions for tensor in condition.tensors]
        if self.compiled or not works_in_rows(self, self.proj_in.weight, x, context, *tensors):
            with parallel_ops(x):
                return self._embedded_and_decoded(x, context, modulation, conditions, in_rows=False)
        rows = []
        with serial_ops():
            for i in range(len(x)):
                row, row_conditions = slice(i, i + 1), tuple(condition.row(i) for condition in conditions)
                rows.append(
                    self._embedded_and_decoded(
                        x[row], context[row], modulation.row(i), row_conditions, in_rows=True
                    )
                )
        return rows[0] if len(rows) == 1 else tuple(torch.cat(parts) for parts in zip(*rows, strict=True))

    def _embedded_and_decoded(
        self, x: Tensor, context: Tensor, modulation: Modulation, conditions: tuple[Cross, ...], in_rows: bool
    ) -> tuple[Tensor, ...]:
        frames = x.shape[1]
        h = torch.cat((context, x), dim=-1).to(self.dtype)
        h = F.pad(h, (0, 0, 0, -frames % self.patch_size))
        h = self.proj_in(h.transpose(1, 2)).transpose(1, 2).contiguous()
        if in_rows:
            h = decoded(self.blocks, self.config, self.norm_out, h, modulation, conditions)
        else:
            h = self._decoded(h, modulation, conditions)
        velocity = self.proj_out(h.transpose(1, 2)).transpose(1, 2)[:, :frames].float()
        return velocity.chunk(len(conditions))

    def _decoded(self, h: Tensor, modulation: Modulation, conditions: tuple[Cross, ...]) -> Tensor:
        """All layers and the final norm: ``[b, l, h]`` -> ``[conditions * b, l, h]``."""
        at = positions(h.shape[1], self.config, h.device, h.dtype)
        windows: Sequence[Window] = self.config.windows
        if self.compiled:
            windows = [block_mask(h.shape[1], window, h.device) for window in self.config.windows]
        for index, (layer, window) in enumerate(zip(self.blocks, windows, strict=True)):
            crosses = [condition.of(index) for condition in conditions]
            copies = len(conditions) if index == 0 else 1
            h = layer(h, modulation.layers[:, index], at, window, crosses, copies)
        shift, scale = per_row(modulation.final, len(h)).unsqueeze(2).unbind(1)
        return self.norm_out(h) * (1 + scale) + shift
