"""Decode latents to a waveform, check it and finish it."""

import torch
from torch import Tensor

from acestep.audio import files as audio
from acestep.constants import COLLAPSED_SHARE, SILENT_PEAK
from acestep.errors import GenerationError
from acestep.generation.conditions import TrackConditions
from acestep.generation.params import GenerationParams
from acestep.handler import AceStepHandler
from acestep.runtime.threads import inference
from acestep.sampling.plan import CoverPlan


@inference
def render(handler: AceStepHandler, latents: Tensor, plan: CoverPlan, conditions: TrackConditions) -> Tensor:
    """Decode latents ``[1, t, c]`` to a waveform ``[2, n]`` (fp32, on the CPU, not yet limited).

    Raises:
        GenerationError: the output is not finite or silent, or its energy collapsed in a run that started from the
            noised source: users of ``cover_noise_strength`` report covers 40 times quieter than the source, which
            normalization would turn into loud noise.
    """
    wave = handler.autoencoder.decode(latents)[0].cpu()
    if not torch.isfinite(latents).all() or not torch.isfinite(wave).all():
        raise GenerationError("not_finite", "the model's output is not finite (NaN or infinity)")
    rms = wave.square().mean().sqrt().item()
    if plan.t_start is not None and rms < COLLAPSED_SHARE * conditions.source_rms:
        raise GenerationError(
            "energy_collapse",
            f"the output's energy collapsed: RMS {rms:.2g} against {conditions.source_rms:.2g} of the source. The "
            f"run started from the noised source at flow time {plan.t_start:.2f}",
            "lower cover_noise_strength, or use task_type cover-nofsq to stay close to the source",
        )
    peak = wave.abs().max().item()
    if peak < SILENT_PEAK:
        remedy = (
            "try another seed or more inference_steps, and check the caption and the model"
            if conditions.source_rms
            else "its source is silent too: lower audio_cover_strength, so that the caption leads, or leave it out"
        )
        raise GenerationError("silent_output", f"the output is silent: its peak is {peak:.2g}", remedy)
    return wave


def finish_waveform(wave: Tensor, params: GenerationParams) -> Tensor:
    """Normalize and fade a decoded ``[2, n]``."""
    wave = audio.finish(wave, params.enable_normalization, params.normalization_db)
    return audio.fade(wave, params.fade_in_duration, params.fade_out_duration)
