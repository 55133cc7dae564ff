"""Audio tokenizer: 25 Hz latents to 5 Hz codes, and codes back to 25 Hz hints that condition a cover.

Codes use finite scalar quantisation (Mentzer et al. 2023) with symmetric levels. Both modules always run in fp32,
because rounding to codes amplifies errors.

Legend: b batch, t latent frames, w = t / 5 windows, c latent channels, h encoder width, f code dimensions.
"""

import torch
from torch import Tensor, nn

from acestep.model.config import ModelConfig
from acestep.model.layers import EncoderStack, Linear


class Quantizer(nn.Module):
    """Finite scalar quantisation between two linear maps."""

    def __init__(self, channels: int, levels: tuple[int, ...]):
        super().__init__()
        self.levels = levels
        self.project_in = Linear(channels, len(levels))
        self.project_out = Linear(len(levels), channels)

    def _levels(self) -> Tensor:
        return torch.tensor(self.levels, device=self.project_in.weight.device)

    def _basis(self) -> Tensor:
        levels = self._levels()
        return torch.cat((levels.new_ones(1), levels[:-1].cumprod(0)))

    def indices(self, x: Tensor) -> Tensor:
        """``[..., h]`` -> code indices ``[...]`` (int64)."""
        top = self._levels() - 1
        scale = 1 + 1 / top
        z = torch.tanh(self.project_in(x) / scale) * scale
        digits = torch.floor(top * (z.clamp(-1, 1) + 1) / 2 + 0.5).long()
        return (digits * self._basis()).sum(-1)

    def vectors(self, indices: Tensor) -> Tensor:
        """Code indices ``[...]`` -> quantised vectors ``[..., h]``."""
        digits = indices[..., None] // self._basis() % self._levels()
        return self.project_out(2 * digits / (self._levels() - 1) - 1)


class AudioTokenizer(nn.Module):
    """Pools each window of latent frames into one vector and quantises it."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.encoder.hidden_size
        self.window = config.pool_window
        self.audio_acoustic_proj = Linear(config.latent_channels, width)
        self.attention_pooler = EncoderStack(config.encoder, config.pooler_layers, width, special_token=True)
        self.quantizer = Quantizer(config.fsq_channels, config.fsq_levels)

    def pool(self, latents: Tensor) -> Tensor:
        """``[b, t, c]`` with t a multiple of the window -> ``[b, w, h]``."""
        pooler = self.attention_pooler
        frames = pooler.embed_tokens(self.audio_acoustic_proj(latents)).unflatten(1, (-1, self.window))
        windows = frames.flatten(0, 1)
        windows = torch.cat((pooler.special_token.expand(len(windows), -1, -1), windows), dim=1)
        return pooler.encode(windows)[:, 0].unflatten(0, frames.shape[:2])

    def forward(self, latents: Tensor) -> Tensor:
        """``[b, t, c]`` -> code indices ``[b, w]``."""
        return self.quantizer.indices(self.pool(latents))


class Detokenizer(EncoderStack):
    """Expands each quantised vector to a window of latent frames."""

    def __init__(self, config: ModelConfig):
        super().__init__(config.encoder, config.pooler_layers, config.encoder.hidden_size)
        width = config.encoder.hidden_size
        self.special_tokens = nn.Parameter(torch.zeros(1, config.pool_window, width))
        self.proj_out = Linear(width, config.latent_channels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``[b, w, h]`` -> ``[b, 5 w, c]``."""
        b, w, _ = x.shape
        windows = self.embed_tokens(x).flatten(0, 1)[:, None] + self.special_tokens
        return self.proj_out(self.encode(windows)).reshape(b, w * windows.shape[1], -1)


def codes(tokenizer: AudioTokenizer, latents: Tensor, silence: Tensor) -> Tensor:
    """Code indices ``[b, ceil(t / 5)]`` of latents ``[b, t, c]``.

    Args:
        silence: the silence latent ``[frames, c]``, which pads the last window.
    """
    tail = silence[: -latents.shape[1] % tokenizer.window].to(latents).expand(len(latents), -1, -1)
    return tokenizer(torch.cat((latents, tail), dim=1))


def hints(tokenizer: AudioTokenizer, detokenizer: Detokenizer, latents: Tensor, silence: Tensor) -> Tensor:
    """Latents ``[b, t, c]`` after tokenizing and detokenizing ``[b, t, c]``; ``silence`` as in ``codes``."""
    vectors = tokenizer.quantizer.vectors(codes(tokenizer, latents, silence))
    return detokenizer(vectors)[:, : latents.shape[1]]
