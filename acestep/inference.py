"""The public Python API: ``generate_music`` with the names and meanings users of ACE-Step know."""

import logging
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acestep import audio
from acestep.conditions import cut_notes, prepare
from acestep.constants import COVER_TASKS, INSTRUCTIONS, INSTRUMENTAL, MAX_SOURCE_SECONDS, SAMPLE_RATE
from acestep.cover import SETTING_FIELDS, CoverPlan, CoverSetting, parse_setting, resolve
from acestep.errors import GenerationError, RequestError, RestyleError
from acestep.handler import AceStepHandler
from acestep.prompt import Prompt, check_prompt
from acestep.sampler import denoise

log = logging.getLogger(__name__)

MAX_BATCH = 8
SEED_LIMIT = 2**32
MP3_RATES = (48_000, 44_100, 32_000)


@dataclass
class GenerationParams:
    """One request, with upstream's names and, but for two, its defaults.

    ``dcw_enabled`` is off: upstream switches this wavelet correction on for everything, and the published
    settings for covers do not know it. ``cfg_interval_on`` is ours; upstream measures the interval on the flow
    time "t", the guide describes it in steps. Values without a meaning (a shift of 0, no steps) are errors, where
    upstream replaces them. Fields outside ``SUPPORTED`` exist so that a request can be written down in full; one
    that is not at its default is refused by ``generate_music`` instead of being ignored.
    """

    task_type: str = "text2music"
    instruction: str = INSTRUCTIONS["text2music"]
    reference_audio: str | None = None
    src_audio: str | None = None
    audio_codes: str = ""
    caption: str = ""
    global_caption: str = ""
    lyrics: str = ""
    instrumental: bool = False
    vocal_language: str = "unknown"
    bpm: int | None = None
    keyscale: str = ""
    timesignature: str = ""
    duration: float = -1.0
    enable_normalization: bool = True
    normalization_db: float = -1.0
    fade_in_duration: float = 0.0
    fade_out_duration: float = 0.0
    latent_shift: float = 0.0
    latent_rescale: float = 1.0
    inference_steps: int = 8
    seed: int = -1
    guidance_scale: float = 7.0
    use_adg: bool = False
    cfg_interval_start: float = 0.0
    cfg_interval_end: float = 1.0
    cfg_interval_on: str = "step"
    shift: float = 1.0
    infer_method: str = "ode"
    sampler_mode: str = "euler"
    velocity_norm_threshold: float = 0.0
    velocity_ema_factor: float = 0.0
    dcw_enabled: bool = False
    dcw_mode: str = "double"
    dcw_scaler: float = 0.05
    dcw_high_scaler: float = 0.02
    dcw_wavelet: str = "haar"
    timesteps: list[float] | None = None
    repainting_start: float = 0.0
    repainting_end: float = -1
    chunk_mask_mode: str = "auto"
    repaint_latent_crossfade_frames: int = 10
    repaint_wav_crossfade_sec: float = 0.0
    repaint_mode: str = "balanced"
    repaint_strength: float = 0.5
    retake_seed: int | None = None
    retake_variance: float = 0.0
    flow_edit_morph: bool = False
    flow_edit_source_caption: str = ""
    flow_edit_source_lyrics: str = ""
    flow_edit_n_min: float = 0.0
    flow_edit_n_max: float = 1.0
    flow_edit_n_avg: int = 1
    audio_cover_strength: float = 1.0
    cover_noise_strength: float = 0.0
    thinking: bool = True
    lm_temperature: float = 0.85
    lm_cfg_scale: float = 2.0
    lm_top_k: int = 0
    lm_top_p: float = 0.9
    lm_negative_prompt: str = "NO USER INPUT"
    use_cot_metas: bool = True
    use_cot_caption: bool = True
    use_cot_lyrics: bool = False
    use_cot_language: bool = True
    use_constrained_decoding: bool = True
    cot_bpm: int | None = None
    cot_keyscale: str = ""
    cot_timesignature: str = ""
    cot_duration: float | None = None
    cot_vocal_language: str = "unknown"
    cot_caption: str = ""
    cot_lyrics: str = ""


SUPPORTED = frozenset(
    {
        "instruction",
        "reference_audio",
        "src_audio",
        "caption",
        "lyrics",
        "instrumental",
        "vocal_language",
        "bpm",
        "keyscale",
        "timesignature",
        "duration",
        "enable_normalization",
        "normalization_db",
        "fade_in_duration",
        "fade_out_duration",
        "latent_shift",
        "latent_rescale",
        "seed",
        # the language model is never asked about a cover, as upstream; switching it off is what happens anyway
        "thinking",
        "use_cot_metas",
        "use_cot_caption",
        "use_cot_language",
        *SETTING_FIELDS,
    }
)


@dataclass
class GenerationConfig:
    """How to run a request: how many outputs, which seeds, which file format.

    Seeds: ``seeds`` as listed; else ``params.seed``, ``params.seed + 1``, ...; else random ones.
    """

    batch_size: int = 2
    allow_lm_batch: bool = False
    use_random_seed: bool = True
    seeds: list[int] | int | None = None
    lm_batch_chunk_size: int = 8
    constrained_decoding_debug: bool = False
    audio_format: str = "flac"
    mp3_bitrate: str = "128k"
    mp3_sample_rate: int = SAMPLE_RATE


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
    _refuse_unsupported(params, config)
    _check_output(params, config)
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


def setting_of(params: GenerationParams) -> CoverSetting:
    """The part of a request that steers the sampler."""
    return parse_setting({name: getattr(params, name) for name in SETTING_FIELDS})


def effective(plan: CoverPlan) -> dict[str, Any]:
    """A plan as plain data, without its step table."""
    return {name: value for name, value in asdict(plan).items() if name not in ("steps", "notes")}


def prompt_of(params: GenerationParams) -> tuple[Prompt, list[str]]:
    """The words of a request, checked, and notes on what was filled in.

    Raises:
        RequestError: a musical fact is out of range, or the caption is empty.
    """
    instruction = "" if params.instruction == INSTRUCTIONS["text2music"] else params.instruction
    lyrics = INSTRUMENTAL if params.instrumental else params.lyrics
    return check_prompt(
        Prompt(
            caption=params.caption,
            lyrics=lyrics,
            language=params.vocal_language,
            bpm=params.bpm,
            keyscale=params.keyscale,
            timesignature=params.timesignature,
            instruction=instruction,
        )
    )


def pick_seeds(seed: int, config: GenerationConfig) -> list[int]:
    """The seed of each output: those listed, else one given and its successors, else random ones.

    Raises:
        RequestError: a seed is out of range, or fewer seeds than outputs are listed.
    """
    listed = [config.seeds] if isinstance(config.seeds, int) else config.seeds
    if listed is None and seed < 0:
        if not config.use_random_seed:
            raise RequestError("use_random_seed is off and no seed is given; set seed or seeds")
        return [random.SystemRandom().randrange(SEED_LIMIT) for _ in range(config.batch_size)]
    if listed is None or len(listed) == 1:
        first = seed if listed is None else listed[0]
        listed = [first + k for k in range(config.batch_size)]
    if len(listed) != config.batch_size:
        raise RequestError(f"{len(listed)} seeds for batch_size {config.batch_size}; list one per output")
    for value in listed:
        if not 0 <= value < SEED_LIMIT:
            raise RequestError(f"seed {value} is out of range; allowed: 0..{SEED_LIMIT - 1}")
    return list(listed)


def decode(handler: AceStepHandler, latents: Tensor, params: GenerationParams) -> Tensor:
    """Latents ``[1, t, c]`` -> a finished waveform ``[2, n]`` fp32 on the CPU."""
    latents = latents * params.latent_rescale + params.latent_shift
    with torch.inference_mode():
        wave = handler.autoencoder.decode(latents)[0].cpu()
    if not torch.isfinite(wave).all():
        raise GenerationError("the model's output is not finite (NaN or infinity)")
    wave = audio.finish(wave, params.enable_normalization, params.normalization_db)
    return audio.fade(wave, params.fade_in_duration, params.fade_out_duration)


def _refuse_unsupported(params: GenerationParams, config: GenerationConfig) -> None:
    if params.task_type not in COVER_TASKS:
        raise RequestError(f"task_type {params.task_type!r} is not supported; use one of {', '.join(COVER_TASKS)}")
    for given, default, supported in (
        (params, GenerationParams(), SUPPORTED),
        (
            config,
            GenerationConfig(),
            {"batch_size", "use_random_seed", "seeds", "audio_format", "mp3_bitrate", "mp3_sample_rate"},
        ),
    ):
        for item in fields(given):
            value = getattr(given, item.name)
            if item.name not in supported and value != getattr(default, item.name):
                raise RequestError(f"{item.name}={value!r} is not supported yet; leave it at its default")
    if not 1 <= config.batch_size <= MAX_BATCH:
        raise RequestError(f"batch_size {config.batch_size} is out of range; allowed: 1..{MAX_BATCH}")
    if config.audio_format not in audio.FORMATS:
        raise RequestError(
            f"audio_format {config.audio_format!r} is unknown; use one of {', '.join(audio.FORMATS)}"
        )
    _kbps(config.mp3_bitrate)


def _check_output(params: GenerationParams, config: GenerationConfig) -> None:
    for name, low, high in (
        ("normalization_db", -60, 0),
        ("fade_in_duration", 0, MAX_SOURCE_SECONDS),
        ("fade_out_duration", 0, MAX_SOURCE_SECONDS),
        ("latent_shift", -10, 10),
        ("latent_rescale", 0, 10),
    ):
        value = getattr(params, name)
        if not isinstance(value, int | float) or not low <= value <= high:
            raise RequestError(f"{name} {value!r} is out of range; allowed: {low:g}..{high:g}")
    for name in ("caption", "lyrics", "vocal_language", "keyscale", "timesignature", "instruction"):
        if not isinstance(getattr(params, name), str):
            raise RequestError(f"{name} {getattr(params, name)!r} is not text")
    for name, allowed in (("bpm", (int, type(None))), ("seed", (int,))):
        if not isinstance(getattr(params, name), allowed):
            raise RequestError(f"{name} {getattr(params, name)!r} is not a whole number")
    if config.mp3_sample_rate not in MP3_RATES:
        rates = ", ".join(map(str, MP3_RATES))
        raise RequestError(f"mp3_sample_rate {config.mp3_sample_rate!r} is not one of {rates}")


def _kbps(bitrate: str) -> int:
    digits = str(bitrate).lower().removesuffix("k")
    if not digits.isdigit() or not 32 <= int(digits) <= 320:
        raise RequestError(f"mp3_bitrate {bitrate!r} is not a bitrate; write it as '128k' (32k..320k)")
    return int(digits)


def _save(wave: Tensor, folder: Path, key: str, config: GenerationConfig) -> str:
    rate = config.mp3_sample_rate if config.audio_format == "mp3" else SAMPLE_RATE
    content = audio.encode_audio(wave, config.audio_format, _kbps(config.mp3_bitrate), rate)
    extension = audio.EXTENSIONS.get(config.audio_format, config.audio_format)
    path = folder / f"{key}.{extension}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise RequestError(f"save_dir {folder}: cannot be written ({error.strerror or error})") from error
    return str(path)
