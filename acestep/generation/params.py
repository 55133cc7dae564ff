"""A request, written down: what to make and how many, under the names that users of ACE-Step know."""

from dataclasses import dataclass
from typing import Any

from acestep.constants import INSTRUCTIONS, SAMPLE_RATE
from acestep.sampling.setting import SETTING_FIELDS


@dataclass
class GenerationParams:
    """One request, with upstream's names; ``CoverSetting`` says what the parameters of the sampler mean.

    Some defaults differ from upstream's: ``dcw_enabled`` is off (the published settings for covers do not know
    this correction) and so is ``thinking``. Upstream skips the language model for covers whatever that flag says;
    here, with ``use_cot_metas``, it listens to the source and fills in the musical facts that the request leaves
    open, drawn as upstream's analysis does (``lm_temperature`` 0.3, ``lm_top_p`` 1).
    Ours: ``cfg_interval_on`` (upstream measures the interval on the flow time "t", the guide describes it in
    steps), ``blend``, ``guidance``, ``sde_time``, ``reference_pick``, and ``stages``: covers of covers, each a
    mapping of a caption, lyrics and sampler parameters laid over the request.
    Values without a meaning (a shift of 0, no steps) are errors, where upstream replaces them. Fields outside
    ``SUPPORTED`` exist so that a request can be written down in full; one that is not at its default is refused by
    ``generate_music`` instead of being ignored.
    """

    task_type: str = "text2music"
    instruction: str = INSTRUCTIONS["text2music"]
    reference_audio: str | None = None
    reference_pick: str = "fixed"
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
    inference_steps: int | None = 8
    seed: int = -1
    guidance_scale: float = 7.0
    guidance: str = "apg"
    use_adg: bool = False
    cfg_interval_start: float = 0.0
    cfg_interval_end: float = 1.0
    cfg_interval_on: str = "step"
    shift: float = 1.0
    infer_method: str = "ode"
    sde_time: str = "scheduled"
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
    blend: str = "switch"
    cover_noise_strength: float = 0.0
    stages: list[dict[str, Any]] | None = None
    thinking: bool = False
    lm_temperature: float = 0.3
    lm_cfg_scale: float = 2.0
    lm_top_k: int = 0
    lm_top_p: float = 1.0
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
        "audio_codes",
        "use_adg",
        "stages",
        "thinking",
        "lm_temperature",
        "lm_top_k",
        "lm_top_p",
        "use_cot_metas",
        "use_cot_language",
        "use_constrained_decoding",
        # its default is on upstream; the caption is the style to go to and is never rewritten
        "use_cot_caption",
        *SETTING_FIELDS,
    }
)


SUPPORTED_CONFIG = frozenset(
    {"batch_size", "use_random_seed", "seeds", "audio_format", "mp3_bitrate", "mp3_sample_rate"}
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
