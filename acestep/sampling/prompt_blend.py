"""Interpolation of two prompts that differ in length: the "embed" blend.

Legend: s tokens, w text width.
"""

from collections.abc import Sequence

from torch import Tensor


def mixed_states(ids: Sequence[Sequence[int]], states: Sequence[Tensor], strength: float) -> Tensor:
    """``strength * cover + (1 - strength) * text`` of the states ``[1, s, w]`` of these two prompts, by token.

    The two instructions differ in length, so tokens are paired: the ids both prompts begin with from the left,
    everything behind them from the right, so that caption and facts meet themselves. Tokens of the longer prompt
    that find no partner keep their own state; the mixture has the longer prompt's length.
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
