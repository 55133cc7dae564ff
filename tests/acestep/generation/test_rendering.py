"""What comes out of the model and cannot be used is a failure, not a file."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from acestep.audio.files import encode_audio, load_audio
from acestep.errors import GenerationError, RequestError
from acestep.generation.chain import Chain
from acestep.generation.conditions import prepare
from acestep.generation.stages import parse_stages
from acestep.handler import AceStepHandler
from acestep.inference import GenerationConfig, GenerationParams, generate_music
from acestep.language.prompt import Prompt
from acestep.sampling.plan import resolve
from acestep.sampling.setting import CoverSetting

SETTING = CoverSetting(inference_steps=2)
SILENCE = torch.zeros(2, 48_000 * 6)


def changed(handler: AceStepHandler, part: str, change: Callable[[nn.Parameter], object]) -> AceStepHandler:
    """The model with one parameter changed, ``part`` naming it from the handler on."""
    owner, _, name = part.partition(".")
    copied = copy.deepcopy(getattr(handler, owner))
    with torch.no_grad():
        change(dict(copied.named_parameters())[name])
    return replace(handler, **{owner: copied})


def cover(handler: AceStepHandler, source: torch.Tensor, **setting: float | str) -> torch.Tensor:
    stages = parse_stages([setting], SETTING)
    track = prepare(handler, source, Prompt("rock"), [resolve(stages[0].setting, handler.is_turbo)])
    return Chain(track, [(stages, 3)]).run(stages, 3).wave


def test_a_decoder_that_says_nothing_fails(base: AceStepHandler, source: Path) -> None:
    mute = changed(base, "autoencoder.decoder.conv2.weight", lambda weight: weight.zero_())
    with pytest.raises(GenerationError, match="the output is silent: its peak is 0; try another seed") as failed:
        cover(mute, load_audio(source))
    assert failed.value.kind == "silent_output"
    with pytest.raises(GenerationError, match="its source is silent too: lower audio_cover_strength"):
        cover(mute, SILENCE)
    # More than -80 dBFS is a quiet cover, and the loudness step may raise it.
    faint = changed(base, "autoencoder.decoder.conv2.weight", lambda weight: weight.mul_(1e-5))
    assert 1e-4 < cover(faint, load_audio(source)).abs().max() < 1e-2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["autoencoder.decoder.conv2.weight", "model.decoder.proj_out.weight"])
def test_values_that_are_not_finite_fail(base: AceStepHandler, source: Path, part: str, value: float) -> None:
    broken = changed(base, part, lambda weight: weight[0].fill_(value))
    with pytest.raises(GenerationError, match="not finite") as failed:
        cover(broken, load_audio(source))
    assert failed.value.kind == "not_finite"


def test_the_public_api_hands_over_no_silent_audio(base: AceStepHandler, source: Path) -> None:
    mute = changed(base, "autoencoder.decoder.conv2.weight", lambda weight: weight.zero_())
    params = GenerationParams(task_type="cover", src_audio=str(source), caption="rock", inference_steps=2)
    result = generate_music(mute, None, params, GenerationConfig())
    assert not result.success
    assert "the output is silent" in str(result.error)
    assert not result.audios


def test_a_silent_source_is_covered_or_refused_by_name(base: AceStepHandler, tmp_path: Path) -> None:
    file = tmp_path / "silence.flac"
    file.write_bytes(encode_audio(SILENCE, "flac"))
    for setting in ({}, {"task_type": "cover-nofsq"}, {"audio_cover_strength": 0.0}):
        assert cover(base, load_audio(file), **setting).abs().max() > 1e-4
    with pytest.raises(RequestError, match="it is silent; use another track"):
        cover(base, load_audio(file), cover_noise_strength=0.5)
