"""Covers of covers."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acestep.audio.files import load_audio
from acestep.errors import GenerationError, RequestError
from acestep.generation.chain import Chain
from acestep.generation.conditions import TrackConditions, prepare, reference_latents
from acestep.generation.stages import Stage, parse_stage, parse_stages
from acestep.handler import AceStepHandler
from acestep.inference import GenerationConfig, GenerationParams, generate_music
from acestep.language.prompt import Prompt
from acestep.sampling.plan import resolve
from acestep.sampling.sampler import denoise
from acestep.sampling.setting import CoverSetting, parse_setting
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
        latents = denoise(handler.model.decoder, handler.null, [conditions.trajectory(plan, seed)])[0]
        made.append(latents)
    return made


def test_a_chain_equals_its_covers_run_by_hand(base: AceStepHandler) -> None:
    wave = torch.from_numpy(tone(6.0).T.copy())
    stages = parse_stages(STAGES, SETTING)
    track = prepare(base, wave, Prompt("country", "oh"), [resolve(stages[0].setting, False)])
    chain = Chain(track, [(stages[:k], 3) for k in (1, 2, 3)])
    ours = [chain.run(stages[:k], 3).latents for k in (1, 2, 3)]
    assert not chain.kept
    for mine, expected in zip(ours, by_hand(base, wave, 3), strict=True):
        assert torch.equal(mine, expected)
    # What an earlier launch already made is made again on the way to the last stage.
    assert torch.equal(Chain(track, [(stages, 3)]).run(stages, 3).latents, ours[2])
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
    assert [stage.own for stage in stages][1:] == [("task_type",), ("cover_noise_strength",)]
    assert stages[1].prompt(Prompt("country", "oh")) == Prompt("hard rock", "la la")
    assert parse_stage({"lyrics": ""}).prompt(Prompt("country", "oh")).lyrics == "[Instrumental]"
    for values, message in (
        ({"captoin": "x"}, "stage 2: unknown setting 'captoin'; did you mean 'caption'"),
        ({"caption": " "}, "stage 2: caption ' ' is not usable"),
        ({"seed": 3}, "stage 2: seed cannot differ between stages"),
        ("rock", "stage 2: 'rock' is not a mapping"),
        ({"audio_cover_strength": 2}, "stage 2: audio_cover_strength 2 is out of range"),
    ):
        with pytest.raises(RequestError, match=message):
            parse_stages([{}, values], SETTING)
    with pytest.raises(RequestError, match="stages 5 is not a list"):
        parse_stages(5, SETTING)
    assert [parse_stage(stage.values()).setting for stage in stages] == [stage.setting for stage in stages]


def quiet(handler: AceStepHandler) -> AceStepHandler:
    """A model whose decoder is turned down to near silence."""
    autoencoder = copy.deepcopy(handler.autoencoder)
    dict(autoencoder.named_parameters())["decoder.conv2.weight"].mul_(1e-6)
    return replace(handler, autoencoder=autoencoder)


def test_a_failed_stage_fails_what_starts_from_it(base: AceStepHandler, source: Path) -> None:
    stages = parse_stages([{"cover_noise_strength": 0.5}, {"caption": "rock"}], SETTING)
    track = prepare(quiet(base), load_audio(source), Prompt("country", "oh"), [resolve(stages[0].setting, False)])
    chain = Chain(track, [(stages[:1], 3), (stages, 3)])
    with pytest.raises(GenerationError, match="energy collapsed") as first:
        chain.run(stages[:1], 3)
    with pytest.raises(
        GenerationError, match="stage 1, its source, failed: the output's energy collapsed"
    ) as then:
        chain.run(stages, 3)
    assert (first.value.kind, then.value.kind) == ("energy_collapse", "parent_failed")


def test_a_later_stage_is_measured_against_the_stage_it_starts_from(base: AceStepHandler, source: Path) -> None:
    """All covers of a turned-down decoder are near silent: the second is no quieter than the first."""
    stages = parse_stages([{}, {"cover_noise_strength": 0.5}], SETTING)
    track = prepare(quiet(base), load_audio(source), Prompt("country", "oh"), [resolve(stages[0].setting, False)])
    assert Chain(track, [(stages, 3)]).run(stages, 3).wave.abs().max() < 0.1


def test_prompts_are_encoded_once_for_all_sources_of_a_sweep(base: AceStepHandler, source: Path) -> None:
    stages = parse_stages([{"caption": "rock"}, {"caption": "metal"}], SETTING)
    track = prepare(base, load_audio(source), Prompt("country", "oh"), [resolve(stages[0].setting, False)])
    chain = Chain(track, [(stages[:k], seed) for seed in (1, 2, 3) for k in (1, 2)])
    for seed in (1, 2, 3):
        for k in (1, 2):
            chain.run(stages[:k], seed)
    assert len(track.prompts) == 4  # two captions, each with the cover's instruction and with the text's
    assert not chain.kept
