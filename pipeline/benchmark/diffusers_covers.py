"""Covers by diffusers: by its pipeline, and by its modules in a loop with upstream's semantics.

Legend: t latent frames, c latent channels, n samples.
"""

import math
from typing import Any

import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.pipelines.ace_step.pipeline_ace_step import TASK_INSTRUCTIONS
from torch import Tensor

from acestep.audio.files import finish
from acestep.sampling.sampler import initial_noise
from acestep.sampling.setting import CoverSetting
from pipeline.benchmark.workloads import CoverJob, SyntheticTrack, steps_of_source

Codes = tuple[int, ...]


def by_pipeline(
    pipeline: Any, track: SyntheticTrack, cover: CoverJob, source: Tensor, codes: Codes | None = None
) -> tuple[Tensor, Tensor]:
    """Latents ``[1, t, c]`` and waveform ``[2, n]`` of one call of the pipeline.

    Args:
        source: ``[2, n]``.
        codes: used in place of the source.
    """
    last: dict[str, Tensor] = {}

    def keep(pipeline: Any, step: int, time: float, given: dict[str, Tensor]) -> dict[str, Tensor]:
        last.update(given)
        return given

    prompt, setting = track.prompt, cover.setting
    audio = pipeline(
        prompt=prompt.caption,
        lyrics=prompt.lyrics,
        vocal_language=prompt.language,
        bpm=prompt.bpm,
        keyscale=prompt.keyscale,
        timesignature=prompt.timesignature,
        audio_duration=track.duration_s,
        task_type="cover",
        src_audio=None if codes else source,
        audio_codes="".join(f"<|audio_code_{code}|>" for code in codes) if codes else None,
        audio_cover_strength=setting.audio_cover_strength,
        num_inference_steps=setting.inference_steps,
        guidance_scale=setting.guidance_scale,
        shift=setting.shift,
        latents=noise_of(pipeline, track, cover),
        callback_on_step_end=keep,
        output_type="pt",
    ).audios[0]
    return last["latents"].float().cpu(), audio.float().cpu()


@torch.no_grad()
def by_switch(
    pipeline: Any, track: SyntheticTrack, cover: CoverJob, source: Tensor, codes: Codes | None = None
) -> tuple[Tensor, Tensor]:
    """One cover with upstream's semantics, in a loop over diffusers' modules.

    The first ``int(steps * strength)`` steps use the cover prompt and the source's hints, the others the
    text-to-music prompt and silence; guidance is the same in all. Unused conditions are not computed.
    """
    device, dtype, setting = pipeline.transformer.device, pipeline.transformer.dtype, cover.setting
    said = {
        "audio_codes": "".join(f"<|audio_code_{code}|>" for code in codes) if codes else None,
        "src_audio": None if codes else source,
    }
    contexts = {}
    steps, kept = setting.inference_steps or 0, steps_of_source(setting)
    if kept > 0:
        contexts["cover"], _ = pipeline.prepare_src_latents(device, dtype, task_type="cover", **said)
    if kept < steps:
        contexts["text2music"], _ = pipeline.prepare_src_latents(device, dtype, latent_length=track.frames)
    conditions = {task: _condition(pipeline, track, task) for task in contexts}
    times = pipeline._get_timestep_schedule(steps, setting.shift, device, torch.float32)
    x, momentum = noise_of(pipeline, track, cover).to(device, dtype), MomentumBuffer(momentum=-0.75)
    for index, (t, after) in enumerate(zip(times.tolist(), [*times.tolist()[1:], 0.0], strict=True)):
        task = "cover" if index < kept else "text2music"
        velocity = _velocity(pipeline, x, t, contexts[task], conditions[task], setting, momentum)
        x = x + (after - t) * velocity
    audio = pipeline.vae.decode(x.transpose(1, 2)).sample[0].float()
    return x.float().cpu(), finish(audio.cpu())


def noise_of(pipeline: Any, track: SyntheticTrack, cover: CoverJob) -> Tensor:
    """The initial noise ``[1, t, c]`` that ours draws from the cover's seed."""
    return initial_noise(cover.seed, track.frames, pipeline.transformer.config.audio_acoustic_hidden_dim)


def _condition(pipeline: Any, track: SyntheticTrack, task: str) -> Tensor:
    prompt, encoder = track.prompt, pipeline.condition_encoder
    text, text_mask, lyrics, lyric_mask = pipeline.encode_prompt(
        prompt.caption,
        prompt.lyrics,
        pipeline.transformer.device,
        prompt.language,
        track.duration_s,
        TASK_INSTRUCTIONS[task],
        prompt.bpm,
        prompt.keyscale,
        prompt.timesignature,
    )
    clip = encoder.silence_latent[:, : math.ceil(30 * pipeline.latents_per_second)].to(text.dtype)
    order = torch.zeros(1, dtype=torch.long, device=clip.device)
    return encoder(text, text_mask, lyrics, lyric_mask, clip, order)[0]


def _velocity(
    pipeline: Any,
    x: Tensor,
    t: float,
    hints: Tensor,
    condition: Tensor,
    setting: CoverSetting,
    momentum: MomentumBuffer,
) -> Tensor:
    guided = setting.guidance_scale > 1 and not pipeline.is_turbo
    rows = 2 if guided else 1
    null = pipeline.condition_encoder.null_condition_emb.to(condition.dtype).expand_as(condition)
    time = torch.full((rows,), t, device=x.device, dtype=x.dtype)
    velocities = pipeline.transformer(
        hidden_states=x.repeat(rows, 1, 1),
        timestep=time,
        timestep_r=time,
        encoder_hidden_states=torch.cat((condition, null)) if guided else condition,
        context_latents=torch.cat((hints, torch.ones_like(hints)), dim=-1).repeat(rows, 1, 1),
        return_dict=False,
    )[0]
    if not guided:
        return velocities
    conditional, unconditional = velocities.chunk(2)
    return normalized_guidance(
        conditional, unconditional, setting.guidance_scale - 1, momentum, 0.0, 2.5, True, (1,)
    )
