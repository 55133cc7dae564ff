"""The public Python API: ``generate_music`` with the names and meanings users of ACE-Step know."""

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acestep import audio
from acestep.conditions import cut_notes, prepare
from acestep.constants import MAX_SOURCE_SECONDS, SAMPLE_RATE
from acestep.cover import CoverPlan, resolve
from acestep.errors import GenerationError, RequestError, RestyleError
from acestep.handler import AceStepHandler
from acestep.request import (
    GenerationConfig,
    GenerationParams,
    check_request,
    kbps,
    pick_seeds,
    prompt_of,
    setting_of,
)
from acestep.sampler import denoise

__all__ = ["GenerationConfig", "GenerationParams", "GenerationResult", "generate_music"]

log = logging.getLogger(__name__)


@dataclass
class GenerationResult:
    """What came out.

    audios: per output ``path`` (None without a save folder), ``tensor`` ``[2, n]`` fp32 on the CPU, ``key``,
        ``sample_rate``, ``params`` (the request with the seed that was used).
    extra_outputs: ``latents`` ``[batch, t, c]``, ``effective`` (what really ran), ``notes``, ``time_costs``.
    error: why nothing came out, when ``success`` is False.
    """

    audios: list[dict[str, Any]] = field(default_factory=list)
    status_message: str = ""
    extra_outputs: dict[str, Any] = field(default_factory=dict)
    success: bool = True
    error: str | None = None


def generate_music(
    dit_handler: AceStepHandler,
    llm_handler: object | None,
    params: GenerationParams,
    config: GenerationConfig,
    save_dir: str | Path | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> GenerationResult:
    """Make covers of one source track.

    Args:
        llm_handler: not used for covers; None is fine.
        save_dir: folder for the files; None keeps the audio in memory only.
        progress: called with (share done, what is being done).

    Returns:
        The result. A request that cannot be served comes back with ``success`` False and a message in
        ``error`` that names the value and the remedy.
    """
    try:
        return _generate(dit_handler, params, config, save_dir, progress or (lambda share, text: None))
    except RestyleError as error:
        return GenerationResult(success=False, error=str(error), status_message=f"Error: {error}")


def _generate(
    handler: AceStepHandler,
    params: GenerationParams,
    config: GenerationConfig,
    save_dir: str | Path | None,
    progress: Callable[[float, str], None],
) -> GenerationResult:
    check_request(params, config)
    plan = resolve(setting_of(params), handler.is_turbo)
    prompt, notes = prompt_of(params)
    notes = [*plan.notes, *notes]
    if params.duration > 0:
        notes.append(f"duration {params.duration:g} has no effect: a cover lasts as long as its source")
    seeds = pick_seeds(params.seed, config)
    if not params.src_audio:
        raise RequestError("src_audio is empty: a cover needs the path of a source track")

    clock = time.perf_counter()
    costs: dict[str, float] = {}

    def lap(part: str) -> None:
        nonlocal clock
        if handler.device.type == "cuda":
            torch.cuda.synchronize(handler.device)
        now = time.perf_counter()
        costs[part], clock = now - clock, now

    progress(0.0, "reading the source")
    source = audio.load_audio(params.src_audio, MAX_SOURCE_SECONDS)
    reference = audio.load_audio(params.reference_audio, MAX_SOURCE_SECONDS) if params.reference_audio else None
    if reference is not None and audio.is_silent(reference):
        notes.append(f"reference_audio {params.reference_audio} is silent and has no effect")
    notes += cut_notes(handler, prompt, source.shape[1] / SAMPLE_RATE)
    lap("read_s")
    conditions = prepare(handler, source, prompt, [plan], reference)
    lap("condition_s")
    lanes = [conditions.lane(plan, seed) for seed in seeds]
    latents = denoise(handler.model.decoder, handler.null, lanes, lambda k, n: progress(0.9 * k / n, "denoising"))
    lap("denoise_s")
    waves = [decode(handler, latent, params) for latent in latents]
    lap("decode_s")
    for note in notes:
        log.warning("%s", note)
    audios = []
    for seed, wave in zip(seeds, waves, strict=True):
        used = asdict(params) | {"seed": seed}
        key = str(uuid.uuid5(uuid.NAMESPACE_OID, repr(sorted(used.items()))))
        path = None if save_dir is None else _save(wave, Path(save_dir), key, config)
        audios.append({"path": path, "tensor": wave, "key": key, "sample_rate": SAMPLE_RATE, "params": used})
    lap("write_s")
    progress(1.0, "done")
    return GenerationResult(
        audios=audios,
        status_message=f"{len(audios)} covers of {waves[0].shape[1] / SAMPLE_RATE:.1f} s",
        extra_outputs={
            "latents": torch.cat(latents).cpu(),
            "effective": effective(plan),
            "notes": notes,
            "time_costs": costs,
        },
    )


def effective(plan: CoverPlan) -> dict[str, Any]:
    """A plan as plain data, without its step table."""
    return {name: value for name, value in asdict(plan).items() if name not in ("steps", "notes")}


def decode(handler: AceStepHandler, latents: Tensor, params: GenerationParams) -> Tensor:
    """Latents ``[1, t, c]`` -> a finished waveform ``[2, n]`` fp32 on the CPU."""
    latents = latents * params.latent_rescale + params.latent_shift
    with torch.inference_mode():
        wave = handler.autoencoder.decode(latents)[0].cpu()
    if not torch.isfinite(wave).all():
        raise GenerationError("the model's output is not finite (NaN or infinity)")
    wave = audio.finish(wave, params.enable_normalization, params.normalization_db)
    return audio.fade(wave, params.fade_in_duration, params.fade_out_duration)


def _save(wave: Tensor, folder: Path, key: str, config: GenerationConfig) -> str:
    rate = config.mp3_sample_rate if config.audio_format == "mp3" else SAMPLE_RATE
    content = audio.encode_audio(wave, config.audio_format, kbps(config.mp3_bitrate), rate)
    extension = audio.EXTENSIONS.get(config.audio_format, config.audio_format)
    path = folder / f"{key}.{extension}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise RequestError(f"save_dir {folder}: cannot be written ({error.strerror or error})") from error
    return str(path)
