"""Conditions of one track, computed once and shared by all its settings and seeds.

Legend: t latent frames, c latent channels, n samples at 48 kHz.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from acestep.audio import is_silent, reference_clip
from acestep.constants import HOP, MAX_LYRIC_TOKENS, MAX_PROMPT_TOKENS, MIN_LATENT_FRAMES, SAMPLE_RATE
from acestep.cover import CoverPlan
from acestep.handler import AceStepHandler
from acestep.prompt import Prompt, lyric_prompt, text_prompt
from acestep.sampler import Branch, Lane, initial_noise
from acestep.tokenizer import hints
from acestep.transformer import CrossAttention


@dataclass(frozen=True)
class TrackConditions:
    """What lanes of one track read.

    contexts: by task ("cover", "cover-nofsq") or "text" -> ``[1, t, 2c]``.
    cross: by branch ("cover", "text") -> cross-attention keys and values.
    """

    contexts: dict[str, Tensor]
    cross: dict[str, CrossAttention]

    @property
    def frames(self) -> int:
        """Latent frames t of every output, at 25 Hz."""
        return next(iter(self.contexts.values())).shape[1]

    def lane(self, plan: CoverPlan, seed: int) -> Lane:
        """One generation of this track."""
        names = {step.branch for step in plan.steps}
        context = {"cover": plan.task_type, "text": "text"}
        branches = {name: Branch(self.contexts[context[name]], self.cross[name]) for name in names}
        some = next(iter(branches.values())).context
        noise = initial_noise(seed, self.frames, some.shape[-1] // 2)
        return Lane(noise.to(some.device), plan, branches)


@torch.inference_mode()
def prepare(
    handler: AceStepHandler,
    source: Tensor,
    prompt: Prompt,
    plans: Collection[CoverPlan],
    reference: Tensor | None = None,
) -> TrackConditions:
    """Everything that ``plans`` of one track need before the first step, and nothing they do not.

    Args:
        source: the track, ``[2, n]`` at 48 kHz.
        prompt: caption, lyrics and musical facts.
        reference: a timbre reference ``[2, n]``; without one (or a silent one) the silence latent is read.
    """
    branches = {step.branch for plan in plans for step in plan.steps}
    contexts = {}
    if "cover" in branches:
        latents = encode_source(handler, source)
        tasks = {plan.task_type for plan in plans if plan.cover_steps}
        if "cover" in tasks:
            model = handler.model
            contexts["cover"] = with_mask(hints(model.tokenizer, model.detokenizer, latents, handler.silence))
        if "cover-nofsq" in tasks:
            contexts["cover-nofsq"] = with_mask(latents)
    if "text" in branches:
        contexts["text"] = with_mask(handler.silence_frames(latent_frames(source)))
    cross = condition_tokens(handler, prompt, source.shape[1] / SAMPLE_RATE, branches, reference)
    return TrackConditions(
        contexts, {name: handler.model.decoder.cross_attention(tokens) for name, tokens in cross.items()}
    )


def encode_source(handler: AceStepHandler, source: Tensor) -> Tensor:
    """Latents ``[1, t, c]`` of a waveform ``[2, n]``, padded with the silence latent to 128 frames.

    A silent source becomes the silence latent: encoding zeros gives something else.
    """
    frames = latent_frames(source)
    if is_silent(source) or source.shape[1] < HOP:
        return handler.silence_frames(frames)
    latents = handler.autoencoder.encode(source[None].to(handler.device))
    return torch.cat((latents, handler.silence_frames(frames - latents.shape[1])), dim=1)


def latent_frames(source: Tensor) -> int:
    """Latent frames t of a cover of ``[2, n]``: the whole frames of its source, at least 128."""
    return max(source.shape[1] // HOP, MIN_LATENT_FRAMES)


def with_mask(latents: Tensor) -> Tensor:
    """Context ``[1, t, 2c]``: latents beside the chunk mask, which is one everywhere in a cover."""
    return torch.cat((latents, torch.ones_like(latents)), dim=-1)


def condition_tokens(
    handler: AceStepHandler,
    prompt: Prompt,
    duration_s: float,
    branches: Collection[str],
    reference: Tensor | None = None,
) -> dict[str, Tensor]:
    """Packed condition tokens ``[1, s, encoder width]`` of each branch: same lyrics and timbre, other text."""
    encoder, text_encoder = handler.model.encoder, handler.text_encoder
    rows = text_encoder.lyric_rows(lyric_prompt(prompt))
    shared = torch.cat(encoder.parts(rows, reference_latents(handler, reference)), dim=1)
    tokens = {}
    for branch in branches:
        task = "cover" if branch == "cover" else "text2music"
        states = text_encoder.prompt_states(text_prompt(prompt, task, duration_s))
        tokens[branch] = torch.cat((shared, encoder.text_projector(states.to(encoder.dtype))), dim=1)
    return tokens


def cut_notes(handler: AceStepHandler, prompt: Prompt, duration_s: float) -> list[str]:
    """A note for each text that is longer than the model reads, whose end is therefore cut off."""
    encoder, notes = handler.text_encoder, []
    for name, text, most in (
        ("caption", text_prompt(prompt, "cover", duration_s), MAX_PROMPT_TOKENS),
        ("lyrics", lyric_prompt(prompt), MAX_LYRIC_TOKENS),
    ):
        count = encoder.count_tokens(text)
        if count > most:
            notes.append(f"{name} too long: {count} tokens with its frame, and the model reads the first {most}")
    return notes


def reference_latents(handler: AceStepHandler, reference: Tensor | None) -> Tensor:
    """Timbre latents ``[1, 750, c]`` of a reference ``[2, n]``, or of silence where there is none."""
    if reference is None or is_silent(reference):
        return handler.silence_frames(handler.model.config.timbre_frames)
    return handler.autoencoder.encode(reference_clip(reference)[None].to(handler.device))
