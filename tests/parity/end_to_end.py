"""Replay cases from an audio file and strings to latents and a waveform."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from acestep.audio import finish, load_audio
from acestep.conditions import encode_source, reference_latents, with_mask
from acestep.constants import SAMPLE_RATE
from acestep.cover import CoverSetting, resolve
from acestep.prompt import Prompt, lyric_prompt, text_prompt
from acestep.sampler import Branch, Lane, denoise
from acestep.tokenizer import hints
from tests.parity.cases import END_LATENTS, END_WAVE, MODULE, VAE_ENCODE, Case, Golden, compare

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
        *("n_non_cover_text_tokens", "cfg_interval_start", "cfg_interval_end"),
    }
)
TOLERANCES = {
    "src_latents": VAE_ENCODE,
    "refer_first60": VAE_ENCODE,
    "text_hidden_states": MODULE,
    "text_hidden_last8": MODULE,
    "non_cover_text_hidden_states": MODULE,
    "context_latents": MODULE,
    # These pass through the autoencoder first where there is a reference clip.
    "enc_hidden_first12": VAE_ENCODE,
    "enc_hidden_last12": MODULE,
    "latents": END_LATENTS,
    "wav_head": END_WAVE,
    "wav_tail": END_WAVE,
    "wav_every": END_WAVE,
    "wav_norm_gain": END_WAVE,
}


def end_to_end_cases(golden: Golden) -> Iterator[Case]:
    """Cases of ``e2e`` whose checkpoint and audio are there."""
    if not golden.has("e2e.json") or golden.autoencoder is None or golden.text_encoder is None:
        return
    reference = golden.tensors("e2e")
    for case, given in golden.json("e2e").items():
        if golden.model_folder(given["model"]) is None or not (golden.folder / "audio" / given["src"]).is_file():
            continue
        if set(given) - SUPPORTED:
            yield Case(f"e2e.{case}", END_LATENTS, None)
            continue
        own = {k.removeprefix(f"{case}."): v for k, v in reference.items() if k.startswith(f"{case}.")}
        tolerances = dict(TOLERANCES)
        if given["task"] == "cover-nofsq":  # the context is the encoded source itself
            tolerances["context_latents"] = VAE_ENCODE
        yield from compare(
            f"e2e.{case}", lambda given=given, own=own: run(golden, given, own["noise"]), own, tolerances
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
    latents = encode_source(handler, source)
    timbre = reference_latents(handler, clip)
    lyrics = text_encoder.lyric_rows(lyric_prompt(prompt))
    shared = torch.cat(model.encoder.parts(lyrics, timbre), dim=1)
    ids = {
        "cover": text_encoder.token_ids(text_prompt(prompt, "cover", seconds), 256),
        "text": text_encoder.token_ids(text_prompt(prompt, "text2music", seconds), 256),
    }
    length = len(ids["cover"])
    end = text_encoder.tokenizer.token_to_id("<|endoftext|>")
    ids["text"] = (ids["text"] + [end] * length)[:length]
    states = {name: text_encoder.states(tokens) for name, tokens in ids.items()}
    packed = {name: torch.cat((shared, model.encoder.text_projector(s)), dim=1) for name, s in states.items()}
    followed = latents
    if given["task"] == "cover":
        followed = hints(model.tokenizer, model.detokenizer, latents, handler.silence)
    contexts = {"cover": followed, "text": handler.silence_frames(latents.shape[1])}
    setting = CoverSetting(
        task_type=given["task"],
        audio_cover_strength=given.get("audio_cover_strength", 1.0),
        guidance_scale=given.get("guidance_scale", 1.0),
        inference_steps=given["inference_steps"],
        shift=given.get("shift", 1.0),
        cfg_interval_start=given.get("cfg_interval_start", 0.0),
        cfg_interval_end=given.get("cfg_interval_end", 1.0),
        cfg_interval_on="t",
    )
    branches = {
        name: Branch(with_mask(contexts[name]), model.decoder.cross_attention(packed[name])) for name in contexts
    }
    out = denoise(model.decoder, handler.null, [Lane(noise, resolve(setting, handler.is_turbo), branches)])[0]
    wave = handler.autoencoder.decode(out)[0]
    limited = finish(wave, normalize=False)
    gain = finish(wave).abs().max() / limited.abs().max()
    return {
        "src_latents": latents,
        "refer_first60": timbre[:, :60],
        "text_hidden_states": states["cover"],
        "text_hidden_last8": states["cover"][:, -8:],
        "non_cover_text_hidden_states": states["text"],
        "context_latents": followed,
        "enc_hidden_first12": packed["cover"][:, :12],
        "enc_hidden_last12": packed["cover"][:, -12:],
        "latents": out,
        "wav_head": limited[:, :512],
        "wav_tail": limited[:, -512:],
        "wav_every": limited[:, ::211],
        "wav_norm_gain": gain[None],
    }
