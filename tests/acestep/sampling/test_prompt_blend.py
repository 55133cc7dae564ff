"""Interpolated prompts: who is paired with whom."""

from dataclasses import replace

import torch

from acestep.generation.conditions import prepare
from acestep.handler import AceStepHandler
from acestep.language.prompt import Prompt, text_prompt
from acestep.sampling.plan import Branch, resolve
from acestep.sampling.prompt_blend import mixed_states
from acestep.sampling.setting import CoverSetting

# "head" ids 1 2, then two or three ids of the instruction, then the caption 7 8 9.
COVER, TEXT = [1, 2, 30, 31, 7, 8, 9], [1, 2, 40, 41, 42, 7, 8, 9]


def states(ids: list[int], offset: float) -> torch.Tensor:
    return torch.tensor(ids, dtype=torch.float32)[None, :, None].expand(-1, -1, 3) + offset


def test_tokens_are_paired_from_both_ends() -> None:
    mixed = mixed_states([COVER, TEXT], [states(COVER, 0.0), states(TEXT, 100.0)], 0.25)
    # Head and caption meet themselves (+75); 30 and 31 meet 41 and 42 from the right; 40 is left alone.
    expected = [1 + 75, 2 + 75, 140, 0.25 * 30 + 0.75 * 141, 0.25 * 31 + 0.75 * 142, 7 + 75, 8 + 75, 9 + 75]
    assert mixed.shape == (1, 8, 3)
    assert torch.allclose(mixed[0, :, 0], torch.tensor(expected))


def test_the_longer_prompt_may_be_the_covers() -> None:
    mixed = mixed_states([TEXT, COVER], [states(TEXT, 0.0), states(COVER, 100.0)], 0.25)
    expected = [1 + 75, 2 + 75, 40, 0.25 * 41 + 0.75 * 130, 0.25 * 42 + 0.75 * 131, 7 + 75, 8 + 75, 9 + 75]
    assert torch.allclose(mixed[0, :, 0], torch.tensor(expected))


def test_equal_lengths_are_paired_in_order() -> None:
    mixed = mixed_states([[1, 2, 3], [1, 9, 3]], [states([1, 2, 3], 0.0), states([1, 9, 3], 10.0)], 0.5)
    assert mixed[0, :, 0].tolist() == [6.0, 10.5, 8.0]
    same = mixed_states([[1, 2], [1, 2]], [states([1, 2], 0.0), states([1, 2], 10.0)], 0.5)
    assert same[0, :, 0].tolist() == [6.0, 7.0]


def test_the_real_prompts_differ_and_are_mixed_in_the_condition(base: AceStepHandler) -> None:
    prompt = Prompt("metal", "la")
    tasks = [text_prompt(prompt, task, 6) for task in ("cover", "text2music")]
    lengths = {base.text_encoder.count_tokens(text) for text in tasks}
    assert len(lengths) == 2
    plan = resolve(CoverSetting(blend="embed", audio_cover_strength=0.5, inference_steps=2), False)
    source = torch.rand(2, 6 * 48_000) - 0.5
    trajectory = prepare(base, source, prompt, [plan]).trajectory(plan, seed=1)
    lyrics = base.text_encoder.count_tokens("# Languages\nunknown\n\n# Lyric\nla<|endoftext|>")
    (condition,) = trajectory.conditions.values()
    assert condition.cross.keys[0].shape[2] == lyrics + 1 + max(lengths)
    assert set(trajectory.conditions) == {Branch("mixed", "cover", "cover", 0.5)}


def test_a_caption_that_is_cut_still_meets_itself(base: AceStepHandler) -> None:
    """Both prompts lose the same tail, so that from the right equal tokens are paired."""
    prompt = Prompt("guitar " * 80, "la")
    encoder, seen = base.text_encoder, []

    class Watching:
        def __getattr__(self, name: str) -> object:
            return getattr(encoder, name)

        def states(self, ids: list[int]) -> torch.Tensor:
            seen.append(ids)
            return encoder.states(ids)

    watched = replace(base, text_encoder=Watching())
    plan = resolve(CoverSetting(blend="embed", audio_cover_strength=0.5, inference_steps=2), False)
    prepare(watched, torch.rand(2, 6 * 48_000) - 0.5, prompt, [plan]).trajectory(plan, seed=1)
    cover, text = seen
    assert max(map(len, seen)) == 256
    assert cover[-180:] == text[-180:]
