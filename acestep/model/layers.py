"""Layers shared by the diffusion transformer and its encoders.

Legend: b batch, l tokens, h hidden width, n heads, m key/value heads, d head width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acestep.model.attention import attention, band
from acestep.model.config import BlockConfig
from acestep.runtime.threads import columns, in_pieces, share


class Linear(nn.Linear):
    """Linear layer that on a CPU is computed in pieces of columns, see ``acestep.runtime.threads``."""

    def forward(self, x: Tensor) -> Tensor:
        if not in_pieces(x, *self.parameters()):
            return super().forward(x)
        rows = x.reshape(-1, self.in_features)
        out = rows.new_empty(len(rows), self.out_features)

        def some_columns(pieces: Iterator[slice]) -> None:
            for part in pieces:
                weight = self.weight[part].T
                if self.bias is None:
                    torch.mm(rows, weight, out=out[:, part])
                else:
                    torch.addmm(self.bias[part], rows, weight, out=out[:, part])

        share(some_columns, columns(self.out_features))
        return out.view(*x.shape[:-1], self.out_features)


class RMSNorm(nn.Module):
    """RMS norm over the last axis; statistics in fp32, scaling in the input's dtype."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


@dataclass(frozen=True)
class Positions:
    """Rotary tables ``[l, d]`` of a sequence, cached by length."""

    cos: Tensor
    sin: Tensor


@lru_cache(maxsize=32)
@torch.inference_mode(mode=False)  # cached tensors created in inference mode would not support gradients
def positions(length: int, config: BlockConfig, device: torch.device, dtype: torch.dtype) -> Positions:
    """Rotary tables in the half-split layout (Su et al. 2021), rounded from fp32 to ``dtype``."""
    frequency = config.rope_theta ** (
        -torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float32) / config.head_dim
    )
    angle = torch.outer(torch.arange(length, device=device).float(), frequency).repeat(1, 2)
    return Positions(angle.cos().to(dtype), angle.sin().to(dtype))


def rotate(x: Tensor, at: Positions) -> Tensor:
    """Apply the rotary embedding to ``[b, n, l, d]``."""
    first, second = x.chunk(2, dim=-1)
    return x * at.cos + torch.cat((-second, first), dim=-1) * at.sin


class Attention(nn.Module):
    """Grouped-query attention with RMS-normed queries and keys, split into cacheable parts."""

    def __init__(self, config: BlockConfig):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, width, bias=False)
        self.k_proj = Linear(config.hidden_size, kv_width, bias=False)
        self.v_proj = Linear(config.hidden_size, kv_width, bias=False)
        self.o_proj = Linear(width, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def queries(self, x: Tensor) -> Tensor:
        """``[b, l, h]`` -> ``[b, n, l, d]``."""
        return self.q_norm(self.q_proj(x).unflatten(-1, (self.heads, self.head_dim))).transpose(1, 2)

    def keys(self, x: Tensor) -> Tensor:
        """``[b, l, h]`` -> ``[b, m, l, d]``."""
        return self.k_norm(self.k_proj(x).unflatten(-1, (self.kv_heads, self.head_dim))).transpose(1, 2)

    def values(self, x: Tensor) -> Tensor:
        """``[b, l, h]`` -> ``[b, m, l, d]``."""
        return self.v_proj(x).unflatten(-1, (self.kv_heads, self.head_dim)).transpose(1, 2)

    def placed(self, x: Tensor, at: Positions) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of ``[b, l, h]`` for self-attention, with rotary positions."""
        return rotate(self.queries(x), at), rotate(self.keys(x), at), self.values(x)

    def merged(self, heads: Tensor) -> Tensor:
        """Output projection of attended values: ``[b, n, l, d]`` -> ``[b, l, h]``."""
        return self.o_proj(heads.transpose(1, 2).flatten(2))


def silu(x: Tensor) -> Tensor:
    """``x * sigmoid(x)``, on a CPU independent of the number of threads.

    torch's own CPU kernel evaluates exp differently for the remainder of a thread's piece after whole vectors, so
    its result depends on the partition; ``torch.exp`` does not.
    """
    if x.device.type != "cpu":
        return F.silu(x)
    wide = x if x.dtype == torch.float64 else x.float()
    return (wide / (1 + torch.exp(-wide))).to(x.dtype)


class Silu(nn.Module):
    """``silu`` as a module, for networks whose activation is a module."""

    def forward(self, x: Tensor) -> Tensor:
        return silu(x)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), Shazeer 2020."""

    def __init__(self, config: BlockConfig):
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class EncoderLayer(nn.Module):
    """Pre-norm bidirectional transformer layer."""

    def __init__(self, config: BlockConfig):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, x: Tensor, at: Positions, visible: Tensor | None) -> Tensor:
        q, k, v = self.self_attn.placed(self.input_layernorm(x), at)
        x = x + self.self_attn.merged(attention(q, k, v, visible))
        return x + self.mlp(self.post_attention_layernorm(x))


class EncoderStack(nn.Module):
    """Linear embedding, transformer layers, final norm: the lyric and timbre encoders and the two poolers."""

    def __init__(self, config: BlockConfig, layers: int, in_channels: int, special_token: bool = False):
        super().__init__()
        self.config = config
        self.embed_tokens = Linear(in_channels, config.hidden_size)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if special_token:
            self.special_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``[b, l, in_channels]`` -> ``[b, l, h]``; ``mask`` ``[b, l]`` is True at real tokens."""
        return self.encode(self.embed_tokens(x), mask)

    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply layers and norm to embedded tokens ``[b, l, h]``."""
        at = positions(x.shape[1], self.config, x.device, x.dtype)
        for layer, window in zip(self.layers, self.config.windows, strict=False):
            x = layer(x, at, _masked(_window(x.shape[1], window, x.device), mask, x.dtype))
        return self.norm(x)


def _window(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """The ``[l, l]`` mask of a windowed layer, or None for full attention."""
    return None if window is None or window >= length - 1 else band(length, length, 0, window, device)


def _masked(visible: Tensor | None, mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if mask is None:
        return visible
    keys = mask[:, None, None, :].bool()
    both = keys if visible is None else keys & visible
    # A finite penalty, as in the reference: a padded query without visible keys then averages over all keys, where
    # a boolean mask would give zeros.
    return torch.where(both, 0.0, torch.finfo(dtype).min).to(dtype)
