"""Conditions of padded batches, packed as the reference packs them; the product encodes one track at a time.

Legend: b batch, s tokens, h encoder width, t frames of a timbre clip, c latent channels.
"""

import torch
from torch import Tensor

from acestep.model.condition_encoder import ConditionEncoder


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


def ragged(
    encoder: ConditionEncoder,
    text: Tensor,
    text_mask: Tensor,
    lyrics: Tensor,
    lyric_mask: Tensor,
    clips: Tensor,
    clip_order: Tensor,
) -> tuple[Tensor, Tensor]:
    """Conditions ``[b, s, h]`` and prefix masks ``[b, s]`` of a padded batch.

    Args:
        clips: ``[clips, t, c]``; ``clip_order[i]`` is the batch row that owns clip i.
    """
    encoded = encoder.lyric_encoder(lyrics, lyric_mask)
    timbre, timbre_mask = scatter_clips(encoder.timbre_encoder(clips), clip_order, len(text))
    tokens, mask = pack(encoded, lyric_mask, timbre, timbre_mask)
    return pack(tokens, mask, encoder.text_projector(text), text_mask)
