"""The "embed" blend: interpolation of two prompts of different length.

Legend: s tokens, w text width.
"""

from collections.abc import Sequence

from torch import Tensor


def mixed_states(ids: Sequence[Sequence[int]], states: Sequence[Tensor], strength: float) -> Tensor:
    """Interpolate the states ``[1, s, w]`` of two prompts: ``strength * cover + (1 - strength) * text``.

    The two instructions differ in length: the common first ids are paired from the left, all others from the
    right, which aligns caption and musical facts. Unpaired tokens of the longer prompt keep their state; the
    result has the longer prompt's length.
    """
    cover_ids, text_ids = ids
    longer, shorter, share = *states, strength
    if len(text_ids) > len(cover_ids):
        longer, shorter, share = shorter, longer, 1 - strength
    shortest = shorter.shape[1]
    common = next((i for i, (a, b) in enumerate(zip(cover_ids, text_ids, strict=False)) if a != b), shortest)
    mixed = longer.clone()
    mixed[:, :common] = share * longer[:, :common] + (1 - share) * shorter[:, :common]
    rest = shortest - common
    if rest:
        mixed[:, -rest:] = share * longer[:, -rest:] + (1 - share) * shorter[:, -rest:]
    return mixed
