"""What can be asked of ``generate_music``, and what is refused before anything runs."""

import random
from dataclasses import dataclass, fields

from acestep import audio
from acestep.constants import COVER_TASKS, INSTRUCTIONS, INSTRUMENTAL, MAX_SOURCE_SECONDS, SAMPLE_RATE
from acestep.cover import SETTING_FIELDS, CoverSetting, parse_setting
from acestep.errors import RequestError
from acestep.prompt import Prompt, check_prompt

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


def check_request(params: GenerationParams, config: GenerationConfig) -> None:
    """Refuse what is not supported or has no meaning; the setting and the prompt are checked on their own.

    Raises:
        RequestError: naming the field, its value and what is allowed.
    """
    _refuse_unsupported(params, config)
    _check_output(params, config)


def setting_of(params: GenerationParams) -> CoverSetting:
    """The part of a request that steers the sampler."""
    return parse_setting({name: getattr(params, name) for name in SETTING_FIELDS})


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
        if not isinstance(value, int) or not 0 <= value < SEED_LIMIT:
            raise RequestError(f"seed {value!r} is out of range; allowed: 0..{SEED_LIMIT - 1}")
    return list(listed)


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
    if not isinstance(config.batch_size, int) or not 1 <= config.batch_size <= MAX_BATCH:
        raise RequestError(f"batch_size {config.batch_size!r} is out of range; allowed: 1..{MAX_BATCH}")
    if config.audio_format not in audio.FORMATS:
        raise RequestError(
            f"audio_format {config.audio_format!r} is unknown; use one of {', '.join(audio.FORMATS)}"
        )
    kbps(config.mp3_bitrate)


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


def kbps(bitrate: str) -> int:
    """The number in a bitrate such as ``128k``."""
    digits = str(bitrate).lower().removesuffix("k")
    if not digits.isdigit() or not 32 <= int(digits) <= 320:
        raise RequestError(f"mp3_bitrate {bitrate!r} is not a bitrate; write it as '128k' (32k..320k)")
    return int(digits)
