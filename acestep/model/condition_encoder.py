"""Lyrics, timbre and text to one packed condition sequence.

Legend: b batch, s tokens, h encoder width, t frames of a timbre clip, c latent channels.
"""

from typing import cast

import torch
from torch import Tensor, nn

from acestep.model.config import ModelConfig
from acestep.model.layers import EncoderStack, Linear


def pack(first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Join two ragged batches ``[b, s1, h]`` and ``[b, s2, h]`` so that real tokens come first, in order.

    Masks ``[b, s]`` are 1 at real tokens. Padding is kept, behind them: the network attends to it.
    """
    tokens = torch.cat((first, second), dim=1)
    mask = torch.cat((first_mask, second_mask), dim=1)
    order = mask.argsort(dim=1, descending=True, stable=True)
    lengths = mask.sum(dim=1, keepdim=True)
    packed_mask = (torch.arange(mask.shape[1], device=mask.device) < lengths).to(mask.dtype)
    return tokens.gather(1, order[..., None].expand_as(tokens)), packed_mask


class TimbreEncoder(EncoderStack):
    """One token per reference clip.

    2B models read out the first frame's state and leave their stored special token unused; XL models
    prepend the special token and read out its state.
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


def scatter_clips(tokens: Tensor, order: Tensor, items: int) -> tuple[Tensor, Tensor]:
    """Timbre tokens ``[clips, h]`` -> ``[items, most, h]`` and its mask; ``order[i]`` owns clip i."""
    counts = torch.bincount(order, minlength=items)
    longest = int(counts.max())
    out = tokens.new_zeros(items, longest, tokens.shape[-1])
    for item in range(items):
        own = tokens[order == item]
        out[item, : len(own)] = own
    mask = (torch.arange(longest, device=order.device) < counts[:, None]).to(order.dtype)
    return out, mask


class ConditionEncoder(nn.Module):
    """Packs lyric states, timbre tokens and projected text states, in this order."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.text_projector = Linear(config.text_channels, config.encoder.hidden_size, bias=False)
        self.lyric_encoder = EncoderStack(config.encoder, config.lyric_layers, config.text_channels)
        self.timbre_encoder = TimbreEncoder(config)

    @property
    def dtype(self) -> torch.dtype:
        return self.text_projector.weight.dtype

    def lyrics(self, rows: Tensor) -> Tensor:
        """Embedding-table rows ``[1, s, text width]`` -> ``[1, s, h]``, nothing padded and nothing masked."""
        return cast(Tensor, self.lyric_encoder(rows.to(self.dtype)))

    def timbre(self, clip: Tensor) -> Tensor:
        """Reference latents ``[1, t, c]`` -> one token ``[1, 1, h]``."""
        return cast(Tensor, self.timbre_encoder(clip.to(self.dtype)))[:, None]

    def ragged(
        self,
        text: Tensor,
        text_mask: Tensor,
        lyrics: Tensor,
        lyric_mask: Tensor,
        clips: Tensor,
        clip_order: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Conditions ``[b, s, h]`` and prefix masks ``[b, s]`` of a padded batch, as the reference packs them.

        Args:
            clips: ``[clips, t, c]``; ``clip_order[i]`` is the batch row that owns clip i.
        """
        encoded = self.lyric_encoder(lyrics, lyric_mask)
        timbre, timbre_mask = scatter_clips(self.timbre_encoder(clips), clip_order, len(text))
        tokens, mask = pack(encoded, lyric_mask, timbre, timbre_mask)
        return pack(tokens, mask, self.text_projector(text), text_mask)
