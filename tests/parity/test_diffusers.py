"""Parity with diffusers' ACE-Step (2B layout): the same random weights give the same numbers, in fp32.

The weights of diffusers' modules reach ours only through files in the published layout and our own loader.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from diffusers import AceStepPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDiagonalGaussianDistribution
from safetensors.torch import load_file, save_file
from torch import Tensor

from acestep.checkpoints.checkpoint import load_autoencoder, load_model
from acestep.constants import HOP
from acestep.errors import CheckpointError
from acestep.generation.conditions import encode_source, prepare
from acestep.handler import AceStepHandler
from acestep.language.prompt import Prompt
from acestep.model.ace_step import AceStepModel
from acestep.model.audio_tokenizer import hints
from acestep.sampling.guidance import apg
from acestep.sampling.plan import resolve
from acestep.sampling.sampler import denoise, initial_noise
from acestep.sampling.setting import CoverSetting
from tests.parity.cases import CPU, ROUNDING, difference
from tests.parity.export import (
    CHANNELS,
    TEXT_WIDTH,
    WIDTH,
    Parts,
    make_parts,
    make_transformer,
    noise,
    write_checkpoint,
)
from tests.parity.packing import ragged

PROMPT = Prompt("heavy metal, \u00e9lectrique", "[verse]\nOn the road", "en", 133, "F# minor", "3")


@dataclass(frozen=True)
class Pair:
    """The same weights in both implementations."""

    theirs: Parts
    ours: AceStepHandler


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def base(root: Path) -> Pair:
    parts = make_parts()
    write_checkpoint(root, parts, "base")
    return Pair(parts, AceStepHandler.from_checkpoint(root, "base", "cpu", "float32"))


@pytest.fixture(scope="module")
def turbo(root: Path, base: Pair) -> Pair:
    parts = replace(base.theirs, transformer=make_transformer(seed=10, layer_types=None, is_turbo=True))
    write_checkpoint(root, parts, "turbo")
    return Pair(parts, AceStepHandler.from_checkpoint(root, "turbo", "cpu", "float32"))


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.float().std() > 0.1, "the reference is all but constant and proves nothing"
    assert difference(ours, theirs) <= ROUNDING


# ---- autoencoder


@pytest.mark.parametrize(("samples", "chunk"), [(HOP, 512), (20 * HOP, 16), (13 * HOP + 777, 512)])
def test_encode(base: Pair, samples: int, chunk: int) -> None:
    audio = 0.5 * noise(20, 2, 2, samples)
    theirs = base.theirs.vae.encode(audio).latent_dist
    mean, scale = base.ours.autoencoder.posterior(audio)
    assert_near(mean, theirs.mean)
    assert_near(scale, theirs.scale)
    assert_near(base.ours.autoencoder.encode(audio, chunk_frames=chunk), theirs.mean.transpose(1, 2))


@pytest.mark.parametrize(("frames", "chunk"), [(1, 512), (11, 512), (60, 26)])
def test_decode(base: Pair, frames: int, chunk: int) -> None:
    latents = noise(21, 2, frames, CHANNELS)
    theirs = base.theirs.vae.decode(latents.transpose(1, 2)).sample
    assert_near(base.ours.autoencoder.decode(latents, chunk_frames=chunk), theirs)


# ---- condition encoder


@pytest.mark.parametrize(("lyric_tokens", "text_tokens", "clip_frames"), [(1, 1, 1), (23, 17, 41)])
def test_condition_of_one_item(base: Pair, lyric_tokens: int, text_tokens: int, clip_frames: int) -> None:
    lyrics, text = noise(30, 1, lyric_tokens, TEXT_WIDTH), noise(31, 1, text_tokens, TEXT_WIDTH)
    clip = noise(32, 1, clip_frames, CHANNELS)
    ones = torch.ones(1, max(lyric_tokens, text_tokens), dtype=torch.long)
    theirs, _ = base.theirs.condition_encoder(
        text, ones[:, :text_tokens], lyrics, ones[:, :lyric_tokens], clip, torch.tensor([0])
    )
    encoder = base.ours.model.encoder
    ours = torch.cat((encoder.lyrics(lyrics), encoder.timbre(clip), encoder.text_projector(text)), dim=1)
    assert_near(ours, theirs)


def test_condition_of_ragged_batch(base: Pair) -> None:
    lyrics, text, clips = noise(33, 3, 19, TEXT_WIDTH), noise(34, 3, 14, TEXT_WIDTH), noise(35, 4, 30, CHANNELS)
    lyric_mask = (torch.arange(19) < torch.tensor([[19], [4], [11]])).long()
    text_mask = (torch.arange(14) < torch.tensor([[3], [14], [9]])).long()
    given = text, text_mask, lyrics, lyric_mask, clips, torch.tensor([1, 0, 2, 1])
    theirs, their_mask = base.theirs.condition_encoder(*given)
    ours, mask = ragged(base.ours.model.encoder, *given)
    assert mask.tolist() == their_mask.long().tolist()
    assert_near(ours, theirs)


# ---- codes and hints


@pytest.mark.parametrize("frames", [200, 198, 2])
def test_codes_and_hints(base: Pair, frames: int) -> None:
    latents = 2 * noise(40, 2, frames, CHANNELS)
    model, silence = base.ours.model, base.ours.silence
    quantized, codes = base.theirs.audio_tokenizer.tokenize(latents, base.theirs.condition_encoder.silence_latent)
    filled = torch.cat((latents, silence[: -frames % 5].expand(2, -1, -1)), dim=1)
    ours = model.tokenizer(filled)
    assert ours.tolist() == codes[..., 0].tolist()
    assert len(ours.unique()) > ours.numel() // 2
    assert_near(model.tokenizer.quantizer.vectors(ours), quantized)
    theirs = base.theirs.audio_token_detokenizer(quantized)[:, :frames]
    assert_near(hints(model.tokenizer, model.detokenizer, latents, silence), theirs)


def test_vectors_of_every_kind_of_code(base: Pair) -> None:
    codes = torch.cat((torch.arange(0, 64_000, 331), torch.tensor([63_999])))[None]
    theirs = base.theirs.audio_tokenizer.quantizer.get_output_from_indices(codes)
    assert_near(base.ours.model.tokenizer.quantizer.vectors(codes), theirs)


# ---- transformer


def velocities(theirs: Parts, ours: AceStepModel, frames: int, null: bool = False) -> tuple[Tensor, Tensor]:
    """Our velocity and theirs of a batch of two with times of their own and r unequal to t."""
    x, context = noise(50, 2, frames, CHANNELS), noise(51, 2, frames, 2 * CHANNELS)
    condition = noise(52, 2, 13, WIDTH)
    t, r = torch.tensor([0.93, 0.31]), torch.tensor([0.55, 0.3])
    cross = ours.decoder.cross_attention(condition)
    if null:
        condition = theirs.condition_encoder.null_condition_emb.expand_as(condition)
        cross = ours.decoder.null_cross_attention(ours.null_condition_emb)
    reference = theirs.transformer(x, t, r, condition, context, return_dict=False)[0]
    return ours.decoder(x, context, ours.decoder.modulation(t, r), cross), reference


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("frames", [64, 51, 2, 1])
def test_velocity(base: Pair, frames: int, null: bool) -> None:
    assert_near(*velocities(base.theirs, base.ours.model, frames, null))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("k_proj", "v_proj"),
        ("q_norm", "k_norm"),
        ("gate_proj", "up_proj"),
        ("self_attn_norm", "mlp_norm"),
        ("time_embed.", "time_embed_r."),
    ],
)
def test_swapped_tensors_of_one_shape_show(base: Pair, tmp_path: Path, one: str, other: str) -> None:
    tensors = load_file(base.ours.folders.model / "model.safetensors")
    partner = {name: name.replace(one, other) if one in name else name.replace(other, one) for name in tensors}
    folder = copy(base.ours.folders.model, tmp_path, "model", {name: tensors[partner[name]] for name in tensors})
    ours, theirs = velocities(base.theirs, load_model(folder, CPU, torch.float32), frames=51)
    assert difference(ours, theirs) > 10 * ROUNDING


# ---- whole runs


def test_guidance_of_weak_and_strong_differences() -> None:
    buffer, momentum = MomentumBuffer(momentum=-0.75), None
    strength = torch.logspace(-2, 1, CHANNELS)  # the norm is limited in some channels and not in others
    for step in range(3):
        conditional = noise(80 + step, 2, 50, CHANNELS)
        unconditional = conditional + strength * noise(90 + step, 2, 50, CHANNELS)
        theirs = normalized_guidance(conditional, unconditional, 8.0, buffer, 0.0, 2.5, True, (1,))
        ours, momentum = apg(conditional, unconditional, 9.0, momentum)
        assert_near(ours, theirs)


def run_both(
    pair: Pair,
    setting: CoverSetting,
    source: Tensor,
    given: Mapping[str, object],
    reference: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Final latents of ours and of ``AceStepPipeline``, from a waveform, words and the same noise."""
    plan = resolve(setting, pair.ours.is_turbo)
    conditions = prepare(pair.ours, source, PROMPT, [plan], reference)
    ours = denoise(pair.ours.model.decoder, pair.ours.null, [conditions.trajectory(plan, seed=7)])[0]
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0)
    pipeline = AceStepPipeline(scheduler=scheduler, **vars(pair.theirs))
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt=PROMPT.caption,
        lyrics=PROMPT.lyrics,
        vocal_language=PROMPT.language,
        bpm=PROMPT.bpm,
        keyscale=PROMPT.keyscale,
        timesignature=PROMPT.timesignature,
        audio_duration=source.shape[1] / 48_000,
        task_type="cover",
        audio_cover_strength=setting.audio_cover_strength,
        num_inference_steps=len(plan.steps),
        guidance_scale=setting.guidance_scale,
        shift=setting.shift,
        cfg_interval_start=setting.cfg_interval_start,
        cfg_interval_end=setting.cfg_interval_end,
        latents=initial_noise(7, conditions.latents.shape[1], CHANNELS),
        output_type="latent",
        **given,
    ).audios
    return ours, theirs


EVERYWHERE = CoverSetting(audio_cover_strength=1.0, cfg_interval_on="one_minus_t", cfg_interval_end=1.0)


def test_turbo_run_with_reference(turbo: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    # Diffusers draws its latents from the posterior, by the global generator; ours are the mean.
    monkeypatch.setattr(OobleckDiagonalGaussianDistribution, "sample", lambda self: self.mean)
    source, loudness = 0.5 * noise(60, 2, 133 * HOP + 1000), noise(61, 31).exp()  # of each second
    reference = 0.5 * noise(62, 2, 31 * 48_000) * loudness.repeat_interleave(48_000)
    given = {"src_audio": source, "reference_audio": reference}
    setting = replace(EVERYWHERE, inference_steps=8, guidance_scale=1.0)
    # Unguided steps amplify nothing, and the middle of a reference moves one condition token a little.
    assert_near(*run_both(turbo, setting, source, given, reference))


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.15, 0.6)])
def test_base_run(base: Pair, start: float, end: float) -> None:
    source = 0.5 * noise(63, 2, 130 * HOP)
    codes = base.ours.model.tokenizer(encode_source(base.ours, source))[0].tolist()
    assert len(set(codes)) > 5
    given = {"audio_codes": "".join(f"<|audio_code_{code}|>" for code in codes)}
    setting = replace(
        EVERYWHERE, inference_steps=10, guidance_scale=9.0, cfg_interval_start=start, cfg_interval_end=end
    )
    guided = sum(step.guided for step in resolve(setting, is_turbo=False).steps)
    assert guided == 10 if end == 1.0 else 0 < guided < 10
    assert_near(*run_both(base, setting, source, given))


@pytest.mark.parametrize(("strength", "end"), [(0.4, 1.0), (0.7, 0.6), (0.0, 1.0)])
def test_velocity_blend_run(base: Pair, strength: float, end: float) -> None:
    source = 0.5 * noise(64, 2, 130 * HOP)
    codes = base.ours.model.tokenizer(encode_source(base.ours, source))[0].tolist()
    given = {"audio_codes": "".join(f"<|audio_code_{code}|>" for code in codes)}
    setting = replace(
        EVERYWHERE,
        blend="velocity",
        audio_cover_strength=strength,
        inference_steps=8,
        guidance_scale=7.0,
        cfg_interval_end=end,
    )
    assert_near(*run_both(base, setting, source, given))


# ---- the loader


def copy(folder: Path, to: Path, stem: str, tensors: Mapping[str, Tensor]) -> Path:
    """A folder with the same configuration and other tensors."""
    shutil.copy(folder / "config.json", to)
    save_file(dict(tensors), to / f"{stem}.safetensors")
    return to


def test_missing_unexpected_and_misshapen_tensors_are_named(base: Pair, tmp_path: Path) -> None:
    tensors = load_file(base.ours.folders.model / "model.safetensors")
    missing, misshapen = "decoder.layers.1.cross_attn.q_norm.weight", "encoder.text_projector.weight"
    unexpected = "decoder.layers.9.mlp.up_proj.weight"
    tensors |= {unexpected: torch.ones(2), misshapen: tensors[misshapen].T.contiguous()}
    del tensors[missing]
    with pytest.raises(CheckpointError) as error:
        load_model(copy(base.ours.folders.model, tmp_path, "model", tensors), CPU, torch.float32)
    shapes = f"{misshapen} is [{TEXT_WIDTH}, {WIDTH}], expected [{WIDTH}, {TEXT_WIDTH}]"
    for problem in (f"1 missing: {missing}", f"1 unexpected: {unexpected}", f"1 of another shape: {shapes}"):
        assert problem in str(error.value)


def test_newer_names_of_weight_norm_are_read(base: Pair, tmp_path: Path) -> None:
    folder, stem = base.ours.folders.autoencoder, "diffusion_pytorch_model"
    tensors = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): tensor
        for name, tensor in load_file(folder / f"{stem}.safetensors").items()
    }
    renamed = load_autoencoder(copy(folder, tmp_path, stem, tensors), CPU, torch.float32)
    latents = noise(70, 1, 2, CHANNELS)
    assert torch.equal(renamed.decode(latents), base.ours.autoencoder.decode(latents))
