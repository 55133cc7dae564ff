"""Conditions of one track, computed once for all its settings, seeds and stages.

Legend: t latent frames, c latent channels, n samples at 48 kHz, s condition tokens.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from acestep.audio.files import is_silent, reference_clip
from acestep.constants import (
    HOP,
    MAX_LYRIC_TOKENS,
    MAX_PROMPT_TOKENS,
    MIN_LATENT_FRAMES,
    SAMPLE_RATE,
)
from acestep.errors import RequestError
from acestep.handler import AceStepHandler
from acestep.language.prompt import Prompt, lyric_prompt, text_prompt
from acestep.language.text_encoder import TextEncoder
from acestep.model.audio_tokenizer import codes, hints
from acestep.model.transformer_layers import CrossAttention
from acestep.runtime.threads import inference
from acestep.sampling.plan import Branch, CoverPlan
from acestep.sampling.prompt_blend import mixed_states
from acestep.sampling.sampler import Condition, Trajectory, fresh_noise, initial_noise, rotate_noise


@dataclass(frozen=True)
class TrackConditions:
    """Inputs of a track's trajectories, computed lazily.

    latents: source latents ``[1, t, c]``; silence if no plan reads them.
    codes: codes ``[1, ceil(t / 5)]`` given instead of a source; ``latents`` are then their decoded hints.
    timbre: returns the reference's latents by pick and seed.
    nothing_to_start_from: reason why a trajectory cannot start from the source, or "".
    source_rms: RMS of the source waveform; 0 without one.
    """

    handler: AceStepHandler
    prompt: Prompt
    duration_s: float
    latents: Tensor
    timbre: Callable[[str, int], Tensor]
    codes: Tensor | None = None
    nothing_to_start_from: str = ""
    source_rms: float = 0.0
    contexts: dict[str, Tensor] = field(default_factory=dict)
    prompts: dict[Any, CrossAttention] = field(default_factory=dict)
    heard: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @inference
    def trajectory(self, plan: CoverPlan, seed: int) -> Trajectory:
        """The trajectory of a plan and a seed.

        Raises:
            RequestError: the plan needs source latents and there are none, or ``retake_seed`` equals the seed.
        """
        self._refuse_without_source(plan)
        if plan.retake is not None and plan.retake[0] == seed:
            remedy = "give another, or retake_variance 0"
            raise RequestError("invalid_value", "is the seed itself", remedy, "retake_seed", seed)
        _, frames, channels = self.latents.shape
        noise = initial_noise(seed, frames, channels)
        if plan.retake is not None:
            other, variance = plan.retake
            noise = rotate_noise(noise, initial_noise(other, frames, channels), variance)
        start = noise.to(self.latents.device)
        if plan.t_start is not None:
            start = plan.t_start * start + (1 - plan.t_start) * self.latents
        return Trajectory(
            plan=plan,
            start=self.latents if plan.edit is not None else start,
            conditions={
                b: Condition(self._context(b), self._cross(b, plan, seed)) for b in sorted(plan.branches, key=str)
            },
            draw=lambda number: fresh_noise(seed, number, frames, channels).to(start.device),
        )

    def restyled(self, latents: Tensor, rms: float) -> "TrackConditions":
        """Conditions with a cover of this track, given as latents ``[1, t, c]``, as the source.

        Args:
            rms: RMS of the cover's waveform.
        """
        return replace(
            self,
            latents=latents,
            codes=None,
            nothing_to_start_from="",
            source_rms=rms,
            contexts={},
        )

    def _refuse_without_source(self, plan: CoverPlan) -> None:
        starts_from_it = plan.t_start is not None or plan.edit is not None
        if self.nothing_to_start_from and (starts_from_it or (self.codes is not None and plan.needs_source)):
            raise RequestError(
                "invalid_value",
                "cover_noise_strength, flow_edit_morph and cover-nofsq read the latents of the source "
                f"itself: {self.nothing_to_start_from}",
            )

    def _context(self, branch: Branch) -> Tensor:
        """Context ``[1, t, 2c]`` of a branch."""
        if branch.context != "mixed":
            return self._plain_context(branch.context)
        source, silence = self._plain_context(branch.task), self._plain_context("silence")
        return branch.strength * source + (1 - branch.strength) * silence

    def _plain_context(self, task: str) -> Tensor:
        if task not in self.contexts:
            self.contexts[task] = with_mask(self._heard(task))
        return self.contexts[task]

    def _heard(self, task: str) -> Tensor:
        if task == "silence":
            return self.handler.silence_frames(self.latents.shape[1])
        if task == "cover-nofsq" or self.codes is not None:
            return self.latents
        model = self.handler.model
        return hints(model.tokenizer, model.detokenizer, self.latents, self.handler.silence)

    @inference
    def source_codes(self) -> Tensor:
        """The source's 5 Hz code indices ``[1, ceil(t / 5)]``."""
        if self.codes is not None:
            return self.codes
        return codes(self.handler.model.tokenizer, self.latents, self.handler.silence)

    def _cross(self, branch: Branch, plan: CoverPlan, seed: int) -> CrossAttention:
        prompt, pick = self.prompt, plan.reference_pick
        if branch.text == "source" and plan.edit is not None:
            caption, lyrics = plan.edit
            prompt = replace(prompt, caption=caption, lyrics=lyrics or prompt.lyrics)

        # Mixed prompts are specific to one strength and random clips to one seed: caching them would grow in a
        # sweep.
        key = (branch.text, prompt, pick)
        kept = branch.text != "mixed" and pick != "random"
        if kept and key in self.prompts:
            return self.prompts[key]
        shared = self._lyrics_and_timbre(prompt, pick, seed)
        tokens = condition_tokens(self.handler, prompt, self.duration_s, branch, shared)
        cross = self.handler.model.decoder.cross_attention(tokens)
        if kept:
            self.prompts[key] = cross
        return cross

    def _lyrics_and_timbre(self, prompt: Prompt, pick: str, seed: int) -> tuple[Tensor, Tensor]:
        if pick == "random":
            return lyrics_and_timbre(self.handler, prompt, self.timbre(pick, seed))
        key = (lyric_prompt(prompt), pick)
        if key not in self.heard:
            self.heard[key] = lyrics_and_timbre(self.handler, prompt, self.timbre(pick, 0))
        return self.heard[key]


@inference
def prepare(
    handler: AceStepHandler,
    source: Tensor,
    prompt: Prompt,
    plans: Collection[CoverPlan],
    reference: Tensor | None = None,
    encode: bool = False,
) -> TrackConditions:
    """Prepare the conditions of a track; encodes the source only if one of ``plans`` reads it.

    Args:
        source: the track ``[2, n]`` at 48 kHz.
        prompt: caption, lyrics and musical facts.
        reference: timbre reference ``[2, n]``; if None or silent, the silence latent is used.
        encode: encode the source in any case.
    """
    frames = latent_frames(source)
    reads = encode or any(b.context != "silence" for plan in plans for b in plan.branches)
    reads = reads or any(plan.t_start is not None for plan in plans)
    return TrackConditions(
        handler=handler,
        prompt=prompt,
        duration_s=source.shape[1] / SAMPLE_RATE,
        latents=encode_source(handler, source) if reads else handler.silence_frames(frames),
        timbre=cache(lambda pick, seed: reference_latents(handler, reference, pick, seed)),
        nothing_to_start_from="it is silent; use another track" if is_silent(source) else "",
        source_rms=source.square().mean().sqrt().item(),
    )


@inference
def prepare_codes(
    handler: AceStepHandler, given: Sequence[int], prompt: Prompt, reference: Tensor | None = None
) -> TrackConditions:
    """Prepare conditions from 5 Hz codes instead of a source: five latent frames per code, at least 128."""
    model = handler.model
    indices = torch.tensor([list(given)], device=handler.device)
    latents = model.detokenizer(model.tokenizer.quantizer.vectors(indices))
    missing = max(MIN_LATENT_FRAMES - latents.shape[1], 0)
    latents = torch.cat((latents, handler.silence_frames(missing)), dim=1)
    return TrackConditions(
        handler=handler,
        prompt=prompt,
        duration_s=latents.shape[1] * HOP / SAMPLE_RATE,
        latents=latents,
        timbre=cache(lambda pick, seed: reference_latents(handler, reference, pick, seed)),
        codes=indices,
        nothing_to_start_from="audio_codes do not hold them; give src_audio",
    )


def encode_source(handler: AceStepHandler, source: Tensor) -> Tensor:
    """Encode a waveform ``[2, n]`` to latents ``[1, t, c]``, padded with the silence latent to 128 frames.

    A silent source becomes the silence latent, which differs from the encoding of zeros.
    """
    frames = latent_frames(source)
    if is_silent(source) or source.shape[1] < HOP:
        return handler.silence_frames(frames)
    latents = handler.autoencoder.encode(source[None].to(handler.device))
    return torch.cat((latents, handler.silence_frames(frames - latents.shape[1])), dim=1)


def latent_frames(source: Tensor) -> int:
    """Number of latent frames of a cover of ``[2, n]``: the source's full frames, at least 128."""
    return max(source.shape[1] // HOP, MIN_LATENT_FRAMES)


def with_mask(latents: Tensor) -> Tensor:
    """Context ``[1, t, 2c]``: latents and chunk mask, which is one everywhere in a cover."""
    return torch.cat((latents, torch.ones_like(latents)), dim=-1)


def lyrics_and_timbre(handler: AceStepHandler, prompt: Prompt, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Condition tokens common to all branches of a prompt: lyrics, and timbre of ``clip`` ``[1, frames, c]``."""
    encoder = handler.model.encoder
    timbre = handler.silent_timbre if clip is handler.silent_clip else encoder.timbre(clip)
    return encoder.lyrics(handler.text_encoder.lyric_rows(lyric_prompt(prompt))), timbre


def condition_tokens(
    handler: AceStepHandler, prompt: Prompt, duration_s: float, branch: Branch, shared: tuple[Tensor, Tensor]
) -> Tensor:
    """Condition tokens ``[1, s, encoder width]``: lyrics, timbre, and the text of a branch.

    Args:
        shared: see ``lyrics_and_timbre``.
    """
    encoder, text_encoder = handler.model.encoder, handler.text_encoder
    if branch.text == "mixed":
        text = _mixed(text_encoder, prompt, duration_s, branch.strength)
    else:
        task = "text2music" if branch.text == "text2music" else "cover"
        text = text_encoder.prompt_states(text_prompt(prompt, task, duration_s))
    return torch.cat((*shared, encoder.text_projector(text.to(encoder.dtype))), dim=1)


def _mixed(text_encoder: TextEncoder, prompt: Prompt, duration_s: float, strength: float) -> Tensor:
    texts = [text_prompt(prompt, task, duration_s) for task in ("cover", "text2music")]
    lengths = [text_encoder.count_tokens(text) for text in texts]
    # Both are shortened by the same number of tokens, which keeps the captions aligned from the right.
    excess = max(0, max(lengths) - MAX_PROMPT_TOKENS)
    ids = [text_encoder.token_ids(text, length - excess) for text, length in zip(texts, lengths, strict=True)]
    return mixed_states(ids, [text_encoder.states(row) for row in ids], strength)


def cut_notes(handler: AceStepHandler, prompt: Prompt, duration_s: float, plan: CoverPlan) -> list[str]:
    """A note for each text that exceeds the model's token limit and is truncated."""
    encoder, notes = handler.text_encoder, []
    texts = [
        ("caption", text_prompt(prompt, "cover", duration_s), MAX_PROMPT_TOKENS),
        ("lyrics", lyric_prompt(prompt), MAX_LYRIC_TOKENS),
    ]
    if plan.edit is not None:
        source = replace(prompt, caption=plan.edit[0], lyrics=plan.edit[1])
        texts += [
            ("flow_edit_source_caption", text_prompt(source, "cover", duration_s), MAX_PROMPT_TOKENS),
            ("flow_edit_source_lyrics", lyric_prompt(source), MAX_LYRIC_TOKENS),
        ]
    for name, text, max_tokens in texts:
        count = encoder.count_tokens(text)
        if count > max_tokens:
            notes.append(
                f"{name} too long: {count} tokens with its frame, and the model reads the first {max_tokens}"
            )
    return notes


def reference_latents(
    handler: AceStepHandler, reference: Tensor | None, pick: str = "fixed", seed: int = 0
) -> Tensor:
    """Timbre latents ``[1, frames, c]`` of a reference ``[2, n]``; 30 s of silence without one."""
    if reference is None or is_silent(reference):
        return handler.silent_clip
    return handler.autoencoder.encode(reference_clip(reference, pick, seed)[None].to(handler.device))
