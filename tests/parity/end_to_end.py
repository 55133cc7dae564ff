"""Replay cases from an audio file and strings to latents and a waveform."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from acestep.audio.files import finish, load_audio
from acestep.constants import SAMPLE_RATE
from acestep.generation.conditions import (
    condition_tokens,
    encode_source,
    lyrics_and_timbre,
    prepare,
    reference_latents,
)
from acestep.language.prompt import Prompt, text_prompt
from acestep.sampling.plan import Branch, resolve
from acestep.sampling.sampler import Condition, denoise
from acestep.sampling.setting import CoverSetting
from tests.parity.cases import ROUNDING, Case, Golden, compare

SUPPORTED = frozenset(
    {
        *(
            "model",
            "src",
            "reference",
            "task",
            "caption",
            "lyrics",
            "vocal_language",
            "latent_frames",
            "src_frames",
        ),
        *("wav_len", "wav_peak", "inference_steps", "guidance_scale", "shift", "audio_cover_strength", "bpm"),
        *("key_scale", "time_signature", "n_non_cover_text_tokens_before_pad_or_cut", "n_text_tokens"),
        *("n_non_cover_text_tokens", "cover_noise_strength", "cfg_interval_start", "cfg_interval_end"),
    }
)
TENSORS = (
    *("src_latents", "refer_first60", "text_hidden_states", "text_hidden_last8", "non_cover_text_hidden_states"),
    *("context_latents", "enc_hidden_first12", "enc_hidden_last12", "latents"),
    *("wav_head", "wav_tail", "wav_every", "wav_norm_gain"),
)


def end_to_end_cases(golden: Golden) -> Iterator[Case]:
    """Cases of ``e2e`` whose checkpoint and audio are there."""
    if not golden.has("e2e.json") or golden.autoencoder is None or golden.text_encoder is None:
        return
    reference = golden.tensors("e2e")
    for case, given in golden.json("e2e").items():
        if golden.model_folder(given["model"]) is None or not (golden.folder / "audio" / given["src"]).is_file():
            continue
        if set(given) - SUPPORTED:
            yield Case(f"e2e.{case}", ROUNDING, None)
            continue
        own = {k.removeprefix(f"{case}."): v for k, v in reference.items() if k.startswith(f"{case}.")}
        yield from compare(
            f"e2e.{case}", lambda given=given, own=own: run(golden, given, own["noise"]), own, TENSORS
        )


def run(golden: Golden, given: dict[str, Any], noise: Tensor) -> dict[str, Tensor]:
    """One cover, with upstream's habit of forcing the text branch's prompt to the cover prompt's length."""
    folder = golden.model_folder(given["model"])
    assert folder is not None
    handler = golden.handler(folder)
    model, text_encoder = handler.model, handler.text_encoder
    source = load_audio(golden.folder / "audio" / given["src"])
    clip = load_audio(golden.folder / "audio" / given["reference"]) if given.get("reference") else None
    prompt = Prompt(
        given["caption"],
        given["lyrics"],
        given["vocal_language"],
        given.get("bpm"),
        given.get("key_scale") or "",
        given.get("time_signature") or "",
    )
    seconds = source.shape[1] / SAMPLE_RATE
    setting = CoverSetting(
        task_type=given["task"],
        audio_cover_strength=given.get("audio_cover_strength", 1.0),
        cover_noise_strength=given.get("cover_noise_strength", 0.0),
        guidance_scale=given.get("guidance_scale", 1.0),
        inference_steps=given["inference_steps"],
        shift=given.get("shift", 1.0),
        cfg_interval_start=given.get("cfg_interval_start", 0.0),
        cfg_interval_end=given.get("cfg_interval_end", 1.0),
        cfg_interval_on="t",
    )
    plan = resolve(setting, handler.is_turbo)
    whole = resolve(replace(setting, audio_cover_strength=1.0), handler.is_turbo)
    conditions = prepare(handler, source, prompt, [plan, whole], clip)
    cover, text = Branch("cover", given["task"]), Branch("text2music", "silence")
    reference = reference_latents(handler, clip)
    tokens = condition_tokens(handler, prompt, seconds, cover, lyrics_and_timbre(handler, prompt, reference))
    trajectory = conditions.trajectory(plan, seed=0)
    read = dict(trajectory.conditions)

    cover_ids = text_encoder.token_ids(text_prompt(prompt, "cover", seconds), 256)
    text_ids = text_encoder.token_ids(text_prompt(prompt, "text2music", seconds), 256)
    end = text_encoder.tokenizer.token_to_id("<|endoftext|>")
    forced = text_encoder.states((text_ids + [end] * len(cover_ids))[: len(cover_ids)])
    if text in read:
        shared = tokens[:, : tokens.shape[1] - len(cover_ids)]
        packed = torch.cat((shared, model.encoder.text_projector(forced)), dim=1)
        read[text] = Condition(read[text].context, model.decoder.cross_attention(packed))
    encoded = encode_source(handler, source)
    start = noise if plan.t_start is None else plan.t_start * noise + (1 - plan.t_start) * encoded
    out = denoise(model.decoder, handler.null, [replace(trajectory, start=start, conditions=read)])[0]
    states = text_encoder.states(cover_ids)
    wave = handler.autoencoder.decode(out)[0]
    limited = finish(wave, normalize=False)
    gain = finish(wave).abs().max() / limited.abs().max()
    return {
        "src_latents": encoded,
        "refer_first60": reference[:, :60],
        "text_hidden_states": states,
        "text_hidden_last8": states[:, -8:],
        "non_cover_text_hidden_states": forced,
        "context_latents": conditions.trajectory(whole, seed=0).conditions[cover].context.chunk(2, dim=-1)[0],
        "enc_hidden_first12": tokens[:, :12],
        "enc_hidden_last12": tokens[:, -12:],
        "latents": out,
        "wav_head": limited[:, :512],
        "wav_tail": limited[:, -512:],
        "wav_every": limited[:, ::211],
        "wav_norm_gain": gain[None],
    }


def diffusers_cases(golden: Golden) -> Iterator[Case]:
    """Cases of ``e2e_diffusers``, which mixes velocities, knows no shortest length and rounds the silence."""
    if not golden.has("e2e_diffusers.json") or golden.autoencoder is None or golden.text_encoder is None:
        return
    reference = golden.tensors("e2e_diffusers")
    names = ("latents", "wav_head", "wav_tail", "wav_every")
    for case, given in golden.json("e2e_diffusers").items():
        own = {k.removeprefix(f"{case}."): v for k, v in reference.items() if k.startswith(f"{case}.")}
        yield from compare(
            f"e2e_diffusers.{case}",
            lambda given=given, own=own: run_diffusers(golden, given, own["noise"]),
            own,
            names,
        )


def run_diffusers(golden: Golden, given: dict[str, Any], noise: Tensor) -> dict[str, Tensor]:
    """One cover as diffusers makes it."""
    folder = golden.model_folder(given["model"])
    assert folder is not None
    handler = golden.handler(folder)
    handler = replace(handler, silence=handler.silence.bfloat16().float())
    source = load_audio(golden.folder / "audio" / given["src"])
    prompt = Prompt(
        given["prompt"],
        given["lyrics"],
        given["vocal_language"],
        given.get("bpm"),
        given.get("keyscale") or "",
        given.get("timesignature") or "",
    )
    setting = CoverSetting(
        blend="velocity",
        audio_cover_strength=given["audio_cover_strength"],
        guidance_scale=given["guidance_scale"],
        inference_steps=given["num_inference_steps"],
        shift=given["shift"],
        cfg_interval_end=1.0,
        cfg_interval_on="one_minus_t",
    )
    plan = resolve(setting, handler.is_turbo)
    conditions = replace(prepare(handler, source, prompt, []), latents=handler.autoencoder.encode(source[None]))
    trajectory = replace(conditions.trajectory(plan, seed=0), start=noise)
    latents = denoise(handler.model.decoder, handler.null, [trajectory])[0]
    wave = finish(handler.autoencoder.decode(latents)[0])
    return {
        "latents": latents,
        "wav_head": wave[:, :512],
        "wav_tail": wave[:, -512:],
        "wav_every": wave[:, ::211],
    }
