"""Public Python API: ``generate_music``, compatible with upstream's names and meanings."""

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acestep.audio import files as audio
from acestep.audio.source_notes import of_reference
from acestep.constants import MAX_SOURCE_SECONDS, SAMPLE_RATE
from acestep.errors import RequestError, RestyleError
from acestep.generation.chain import Chain, Cover
from acestep.generation.conditions import TrackConditions, cut_notes, prepare, prepare_codes
from acestep.generation.musical_facts import with_musical_facts
from acestep.generation.params import GenerationConfig, GenerationParams
from acestep.generation.rendering import finish_waveform
from acestep.generation.request import (
    check_request,
    codes_of,
    ineffective_request_notes,
    parse_bitrate,
    pick_seeds,
    prompt_of,
    stages_of,
)
from acestep.generation.stages import Stage
from acestep.handler import AceStepHandler
from acestep.language.language_model import LanguageModel
from acestep.language.prompt import Prompt
from acestep.sampling.plan import CoverPlan, plan_values, resolve

__all__ = ["GenerationConfig", "GenerationParams", "GenerationResult", "generate_music"]

log = logging.getLogger(__name__)


@dataclass
class GenerationResult:
    """Result of ``generate_music``.

    audios: per output ``path`` (None without a save folder), ``tensor`` ``[2, n]`` fp32 on the CPU, ``key``,
        ``sample_rate``, ``params`` (the request with the actual seed and the language model's answers).
    extra_outputs: ``latents`` ``[batch, t, c]``, ``effective`` (parameters that took effect), ``stages``
    (effective
        parameters and latents of every stage), ``notes``, ``time_costs`` (seconds).
    error: message if ``success`` is False.
    """

    audios: list[dict[str, Any]] = field(default_factory=list)
    status_message: str = ""
    extra_outputs: dict[str, Any] = field(default_factory=dict)
    success: bool = True
    error: str | None = None


def generate_music(
    dit_handler: AceStepHandler,
    llm_handler: LanguageModel | None,
    params: GenerationParams,
    config: GenerationConfig,
    save_dir: str | Path | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> GenerationResult:
    """Generate covers of one source track.

    Args:
        llm_handler: language model; required if ``params.thinking`` is on.
        save_dir: folder for the files; None keeps the audio in memory only.
        progress: called with (fraction done, current step).

    Returns:
        The result. For an invalid request, ``success`` is False and ``error`` names the value and the remedy.
    """
    try:
        return _generate(
            dit_handler, llm_handler, params, config, save_dir, progress or (lambda share, text: None)
        )
    except RestyleError as error:
        return GenerationResult(success=False, error=str(error), status_message=f"Error: {error}")


def _generate(
    handler: AceStepHandler,
    language_model: LanguageModel | None,
    params: GenerationParams,
    config: GenerationConfig,
    save_dir: str | Path | None,
    progress: Callable[[float, str], None],
) -> GenerationResult:
    params, config = check_request(params, config)
    stages = stages_of(params)
    plans = [resolve(stage.setting, handler.is_turbo) for stage in stages]
    prompt, notes = prompt_of(params)
    seeds = pick_seeds(params.seed, config)
    notes += ineffective_request_notes(params, config)
    if params.thinking and language_model is None:
        reason = "thinking is on and there is no language model"
        raise RequestError("invalid_value", reason, "pass llm_handler, or switch it off")

    clock = time.perf_counter()
    costs: dict[str, float] = {}

    def lap(part: str) -> None:
        nonlocal clock
        handler.synchronize()
        now = time.perf_counter()
        costs[part], clock = now - clock, now

    progress(0.0, "reading the source")
    conditions, more = _conditions(handler, params, prompt, plans)
    notes += more
    lap("condition_s")
    if params.thinking and language_model is not None:
        progress(0.0, "listening to the source")
        conditions, more = with_musical_facts(language_model, conditions, params)
        notes += more
        lap("understand_s")
    for number, (stage, plan) in enumerate(zip(stages, plans, strict=True), start=1):
        where = f"stage {number}: " if len(stages) > 1 else ""
        cut = cut_notes(handler, stage.prompt(conditions.prompt), conditions.duration_s, plan)
        notes += [where + note for note in (*stage.notes(conditions.prompt), *plan.notes, *cut)]
    covers = _covers(conditions, stages, seeds, params, progress)
    costs["denoise_s"] = sum(cover.denoise_s for chain in covers for cover in chain)
    costs["decode_s"] = sum(cover.decode_s for chain in covers for cover in chain)
    clock = time.perf_counter()
    waves = [finish_waveform(chain[-1].wave, params) for chain in covers]
    made = [torch.cat([chain[k].latents for chain in covers]).cpu() for k in range(len(stages))]
    for note in notes:
        log.warning("%s", note)
    found = asdict(conditions.prompt)
    audios = []
    for seed, wave in zip(seeds, waves, strict=True):
        used = asdict(params) | {"seed": seed}
        used |= {name: found[name] for name in ("bpm", "keyscale", "timesignature")}
        used["vocal_language"] = found["language"]
        key = str(uuid.uuid5(uuid.NAMESPACE_OID, repr(sorted(used.items()))))
        path = None if save_dir is None else _save(wave, Path(save_dir), key, config)
        audios.append({"path": path, "tensor": wave, "key": key, "sample_rate": SAMPLE_RATE, "params": used})
    lap("write_s")
    progress(1.0, "done")
    return GenerationResult(
        audios=audios,
        status_message=f"{len(audios)} covers of {waves[0].shape[1] / SAMPLE_RATE:.1f} s",
        extra_outputs={
            "latents": made[-1],
            "effective": plan_values(plans[-1]),
            "stages": [
                {"caption": stage.prompt(conditions.prompt).caption, **plan_values(plan), "latents": latents}
                for stage, plan, latents in zip(stages, plans, made, strict=True)
            ],
            "notes": notes,
            "time_costs": costs,
        },
    )


def _covers(
    conditions: TrackConditions,
    stages: tuple[Stage, ...],
    seeds: list[int],
    params: GenerationParams,
    progress: Callable[[float, str], None],
) -> list[list[Cover]]:
    """The covers of all stages for each seed."""
    chains = [(stages[:k], seed) for seed in seeds for k in range(1, len(stages) + 1)]
    chain = Chain(conditions, chains, lambda x: x * params.latent_rescale + params.latent_shift)
    covers: list[Cover] = []
    for number, (some, seed) in enumerate(chains):

        def on_step(k: int, n: int, number: int = number) -> None:
            progress(0.95 * (number + k / n) / len(chains), "denoising")

        covers.append(chain.run(some, seed, on_step))
    return [covers[k : k + len(stages)] for k in range(0, len(covers), len(stages))]


def _conditions(
    handler: AceStepHandler, params: GenerationParams, prompt: Prompt, plans: list[CoverPlan]
) -> tuple[TrackConditions, list[str]]:
    codes, notes = codes_of(params), []
    if bool(codes) == bool(params.src_audio):
        reason = "a cover needs one source: give src_audio, the path of a track, or audio_codes"
        raise RequestError("invalid_value", reason)
    reference = None
    if params.reference_audio:
        sound = audio.read_audio(params.reference_audio, MAX_SOURCE_SECONDS)
        reference = sound.wave
        notes += [note.text for note in of_reference(sound.notes, params.reference_audio)]
    if reference is None and params.reference_pick != GenerationParams.reference_pick:
        notes.append(f"reference_pick {params.reference_pick!r} has no effect: there is no reference_audio")
    if codes or params.src_audio is None:
        return prepare_codes(handler, codes, prompt, reference), notes
    source = audio.read_audio(params.src_audio, MAX_SOURCE_SECONDS)
    notes += [note.text for note in source.notes]
    return prepare(handler, source.wave, prompt, plans, reference, encode=params.thinking), notes


def _save(wave: Tensor, folder: Path, key: str, config: GenerationConfig) -> str:
    rate = config.mp3_sample_rate if config.audio_format == "mp3" else SAMPLE_RATE
    content = audio.encode_audio(wave, config.audio_format, parse_bitrate(config.mp3_bitrate), rate)
    extension = audio.EXTENSIONS.get(config.audio_format, config.audio_format)
    path = folder / f"{key}.{extension}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        reason = f"cannot be written ({error.strerror or error})"
        raise RequestError("not_writable", reason, field="save_dir", value=folder) from error
    return str(path)
