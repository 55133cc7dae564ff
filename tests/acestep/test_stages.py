"""Covers of covers."""

from pathlib import Path

import pytest
import torch

from acestep.audio import load_audio
from acestep.conditions import TrackConditions, prepare, reference_latents
from acestep.cover import resolve
from acestep.errors import RequestError
from acestep.handler import AceStepHandler
from acestep.inference import GenerationConfig, GenerationParams, generate_music
from acestep.prompt import Prompt
from acestep.sampler import denoise
from acestep.setting import CoverSetting, parse_setting
from acestep.stages import Chain, Stage, parse_stage, parse_stages
from tests.conftest import tone

SETTING = CoverSetting(inference_steps=4, guidance_scale=5.0, audio_cover_strength=0.6)
STAGES = [
    {"caption": "rock", "audio_cover_strength": 0.9},
    {"caption": "hard rock", "lyrics": "la la", "task_type": "cover-nofsq"},
    {"caption": "heavy metal", "cover_noise_strength": 0.5},
]


def by_hand(handler: AceStepHandler, wave: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Each stage as a cover of its own, told what its source's latents are."""
    latents, made = None, []
    for values in STAGES:
        words = {k: values[k] for k in ("caption", "lyrics") if k in values}
        prompt = Prompt(**{"lyrics": "oh", **words})
        plan = resolve(parse_setting({k: v for k, v in values.items() if k not in words}, SETTING), False)
        if latents is None:
            conditions = prepare(handler, wave, prompt, [plan])
        else:
            conditions = TrackConditions(
                handler=handler,
                prompt=prompt,
                duration_s=wave.shape[1] / 48_000,
                latents=latents,
                timbre=lambda pick, seed: reference_latents(handler, None),
            )
        latents = denoise(handler.model.decoder, handler.null, [conditions.lane(plan, seed)])[0]
        made.append(latents)
    return made


def test_a_chain_equals_its_covers_run_by_hand(base: AceStepHandler) -> None:
    wave = torch.from_numpy(tone(6.0).T.copy())
    stages = parse_stages(STAGES, SETTING)
    track = prepare(base, wave, Prompt("country", "oh"), [resolve(stages[0].setting, False)])
    chain = Chain(track, parents={(stages[:1], 3), (stages[:2], 3)})
    ours = [chain.run(stages[:k], 3)[1] for k in (1, 2, 3)]
    for mine, expected in zip(ours, by_hand(base, wave, 3), strict=True):
        assert torch.equal(mine, expected)
    # What an earlier launch already made is made again on the way to the last stage.
    assert torch.equal(Chain(track, parents=set()).run(stages, 3)[1], ours[2])
    assert len({float(latents.sum()) for latents in ours}) == 3


def test_stages_through_the_public_api(base: AceStepHandler, source: Path) -> None:
    params = GenerationParams(
        task_type="cover",
        src_audio=str(source),
        caption="country",
        lyrics="oh",
        inference_steps=4,
        guidance_scale=5.0,
        shift=3.0,
        cfg_interval_end=0.95,
        audio_cover_strength=0.6,
        seed=3,
        stages=STAGES,
    )
    result = generate_music(base, None, params, GenerationConfig(batch_size=2))
    assert result.success, result.error
    wave = load_audio(source)
    made = result.extra_outputs["stages"]
    assert [stage["caption"] for stage in made] == ["rock", "hard rock", "heavy metal"]
    for stage, *expected in zip(made, by_hand(base, wave, 3), by_hand(base, wave, 4), strict=True):
        assert torch.equal(stage["latents"], torch.cat(expected))
    assert torch.equal(result.extra_outputs["latents"], made[-1]["latents"])


def test_stages_are_read_and_refused_by_number() -> None:
    assert parse_stages(None, SETTING) == (Stage(SETTING),)
    stages = parse_stages(STAGES, SETTING)
    assert [parse_stage(stage.values()) for stage in stages] == list(stages)
    assert stages[1].prompt(Prompt("country", "oh")) == Prompt("hard rock", "la la")
    assert parse_stage({"lyrics": ""}).prompt(Prompt("country", "oh")).lyrics == "[Instrumental]"
    for values, message in (
        ({"captoin": "x"}, "stage 2: unknown setting 'captoin'"),
        ({"caption": " "}, "stage 2: caption ' ' of a stage is not usable"),
        ({"audio_cover_strength": 2}, "stage 2: audio_cover_strength 2 is out of range"),
    ):
        with pytest.raises(RequestError, match=message):
            parse_stages([{}, values], SETTING)
