"""Encode lyrics, timbre and text to one condition sequence.

Legend: b batch, s tokens, h encoder width, t frames of a timbre clip, c latent channels.
"""

from typing import cast

import torch
from torch import Tensor, nn

from acestep.model.config import ModelConfig
from acestep.model.layers import EncoderStack, Linear


class TimbreEncoder(EncoderStack):
    """Encodes a reference clip to one token.

    2B models return the state of the first frame and do not use their stored special token; XL models prepend the
    special token and return its state.
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config.encoder, config.timbre_layers, config.timbre_channels, special_token=True)
        self.prepend_token = config.timbre_token

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Clips ``[clips, t, c]`` -> ``[clips, h]``."""
        h = self.embed_tokens(x)
        if self.prepend_token:
            h = torch.cat((self.special_token.expand(h.shape[0], -1, -1), h), dim=1)
        return self.encode(h, mask)[:, 0]


class ConditionEncoder(nn.Module):
    """Encoders of lyrics, timbre and text; condition tokens are concatenated in this order."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.text_projector = Linear(config.text_channels, config.encoder.hidden_size, bias=False)
        self.lyric_encoder = EncoderStack(config.encoder, config.lyric_layers, config.text_channels)
        self.timbre_encoder = TimbreEncoder(config)

    @property
    def dtype(self) -> torch.dtype:
        return self.text_projector.weight.dtype

    def lyrics(self, rows: Tensor) -> Tensor:
        """Token embeddings ``[1, s, text width]`` -> ``[1, s, h]``, without padding."""
        return cast(Tensor, self.lyric_encoder(rows.to(self.dtype)))

    def timbre(self, clip: Tensor) -> Tensor:
        """Reference latents ``[1, t, c]`` -> one token ``[1, 1, h]``."""
        return cast(Tensor, self.timbre_encoder(clip.to(self.dtype)))[:, None]
