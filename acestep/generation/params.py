"""Request parameters of ``generate_music``, with upstream's names."""

from dataclasses import dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any

from acestep.audio.files import FORMATS
from acestep.constants import INSTRUCTIONS, MAX_SOURCE_SECONDS, RANDOM_SEED, SAMPLE_RATE
from acestep.language.prompt import WORDS
from acestep.parameters.declaration import Parameter, Requirement, parameters_of
from acestep.sampling.setting import PARAMETERS, SEED, CoverSetting

MAX_BATCH = 8
MP3_RATES = (48_000, 44_100, 32_000)
WITH_BITRATE = ("mp3", "opus", "aac")  # formats that mp3_bitrate is for
_TESTS = "tests/acestep/test_inference.py"
_REACHES = f"{_TESTS}::test_every_supported_parameter_reaches_the_audio"
_FILLS = f"{_TESTS}::test_the_language_model_fills_what_the_request_leaves_open"
_FILES = f"{_TESTS}::test_files_hold_what_the_tensor_holds"

THINKING = Requirement(lambda params: params.thinking, "thinking is off")
NORMALIZED = Requirement(lambda params: params.enable_normalization, "enable_normalization is off")
COMPRESSED = Requirement(lambda config: config.audio_format in WITH_BITRATE, "audio_format is {0.audio_format!r}")
MP3 = Requirement(lambda config: config.audio_format == "mp3", "audio_format is {0.audio_format!r}")


def _when_thinking(meaning: str) -> Parameter:
    """A parameter of the language model."""
    return Parameter(meaning, needs=(THINKING,), in_item=False, proof=_FILLS)


if TYPE_CHECKING:
    SamplerParams = CoverSetting
else:  # the same fields, which can be assigned to and are checked when the request is made
    SamplerParams = make_dataclass(
        "SamplerParams",
        [(f.name, f.type, field(default=f.default, metadata=f.metadata)) for f in fields(CoverSetting)],
    )


@dataclass
class GenerationParams(SamplerParams):  # type: ignore[misc]
    """One request, with upstream's names and, where they differ from ``CoverSetting``, upstream's defaults.

    Some defaults differ from upstream's: ``dcw_enabled`` is off (the published settings for covers do not know
    this correction) and so is ``thinking``. Upstream always skips the language model for covers; here, with
    ``use_cot_metas``, it analyses the source and fills in missing musical facts, sampled as in upstream's analysis
    (``lm_temperature`` 0.3, ``lm_top_p`` 1).
    Ours: ``cfg_interval_on`` (upstream measures the interval on the flow time "t", the guide describes it in
    steps), ``blend``, ``guidance``, ``sde_time``, ``reference_pick``, and ``stages``.
    Invalid values (a shift of 0, no steps) are errors, where upstream replaces them. Fields without a declaration
    exist for compatibility; ``generate_music`` refuses them if they are not at their defaults.
    """

    task_type: str = PARAMETERS["task_type"].field("text2music")
    instruction: str = Parameter(
        "Replaces the task's own instruction in the prompt.",
        proof=f"{_TESTS}::test_the_covers_own_instruction_said_aloud_changes_nothing",
    ).field(INSTRUCTIONS["text2music"])
    reference_audio: str | None = Parameter(
        "A track whose timbre to take; given like `src_audio`.", proof=f"{_TESTS}::test_reference_picks"
    ).field(None)
    src_audio: str | None = Parameter(
        "The source: the path of a track; over HTTP a path in a folder that the service reads, an address, or a "
        "file of a form.",
        proof=f"{_TESTS}::test_codes_stand_in_for_a_source",
    ).field(None)
    audio_codes: str = Parameter(
        "The source's 5 Hz codes in place of `src_audio`, as `<|audio_code_17|>`; not over HTTP.",
        proof=f"{_TESTS}::test_codes_stand_in_for_a_source",
    ).field("")
    caption: str = WORDS["caption"].field("")
    global_caption: str = ""
    lyrics: str = WORDS["lyrics"].field("")
    instrumental: bool = Parameter(
        "Leaves the lyrics out.", proof=f"{_TESTS}::test_instrumental_and_empty_lyrics_are_the_same_request"
    ).field(False)
    vocal_language: str = WORDS["language"].field("unknown")
    bpm: int | None = WORDS["bpm"].field(None)
    keyscale: str = WORDS["keyscale"].field("")
    timesignature: str = WORDS["timesignature"].field("")
    duration: float = Parameter(
        "Has no effect: a cover lasts as long as its source.", unit="s", proof=_REACHES
    ).field(-1.0)
    enable_normalization: bool = Parameter(
        "Scales the loudest sample to `normalization_db`.", in_item=False, proof=_REACHES
    ).field(True)
    normalization_db: float = Parameter(
        "Peak level of the cover.", range=(-60, 0), unit="dBFS", needs=(NORMALIZED,), in_item=False, proof=_REACHES
    ).field(-1.0)
    fade_in_duration: float = Parameter(
        "Length of a fade-in.", range=(0, MAX_SOURCE_SECONDS), unit="s", in_item=False, proof=_REACHES
    ).field(0.0)
    fade_out_duration: float = Parameter(
        "Length of a fade-out.", range=(0, MAX_SOURCE_SECONDS), unit="s", in_item=False, proof=_REACHES
    ).field(0.0)
    latent_shift: float = Parameter(
        "Added to the latents before they are decoded.", range=(-10, 10), in_item=False, proof=_REACHES
    ).field(0.0)
    latent_rescale: float = Parameter(
        "Factor of the latents before they are decoded.", range=(0.01, 10), in_item=False, proof=_REACHES
    ).field(1.0)
    inference_steps: int | None = PARAMETERS["inference_steps"].field(8)
    seed: int = SEED.field(RANDOM_SEED)
    guidance_scale: float = PARAMETERS["guidance_scale"].field(7.0)
    use_adg: bool = Parameter("The same as `guidance` adg.", proof=_REACHES).field(False)
    cfg_interval_end: float = PARAMETERS["cfg_interval_end"].field(1.0)
    shift: float = PARAMETERS["shift"].field(1.0)
    dcw_wavelet: str = "haar"
    repainting_start: float = 0.0
    repainting_end: float = -1
    chunk_mask_mode: str = "auto"
    repaint_latent_crossfade_frames: int = 10
    repaint_wav_crossfade_sec: float = 0.0
    repaint_mode: str = "balanced"
    repaint_strength: float = 0.5
    audio_cover_strength: float = PARAMETERS["audio_cover_strength"].field(1.0)
    stages: list[dict[str, Any]] | None = Parameter(
        "Covers of covers, each a mapping of a caption, lyrics and sampler parameters laid over the request.",
        proof="tests/acestep/generation/test_chain.py::test_stages_through_the_public_api",
    ).field(None)
    thinking: bool = Parameter(
        "Lets the language model hear the source and fill in the facts that are left open.", proof=_FILLS
    ).field(False)
    lm_temperature: float = _when_thinking("Temperature of the language model.").field(0.3)
    lm_cfg_scale: float = 2.0
    lm_top_k: int = _when_thinking("Tokens that the language model draws from; 0 is all.").field(0)
    lm_top_p: float = _when_thinking("Probability of the tokens that the language model draws from.").field(1.0)
    lm_negative_prompt: str = "NO USER INPUT"
    use_cot_metas: bool = _when_thinking("Takes bpm, key and time signature from the language model.").field(True)
    use_cot_caption: bool = Parameter(
        "Has no effect: the caption is the style to go to and is never rewritten.", proof=_REACHES
    ).field(True)
    use_cot_lyrics: bool = False
    use_cot_language: bool = _when_thinking("Takes the language from the language model.").field(True)
    use_constrained_decoding: bool = _when_thinking("Lets the language model answer by its grammar alone.").field(
        True
    )
    cot_bpm: int | None = None
    cot_keyscale: str = ""
    cot_timesignature: str = ""
    cot_duration: float | None = None
    cot_vocal_language: str = "unknown"
    cot_caption: str = ""
    cot_lyrics: str = ""


@dataclass
class GenerationConfig:
    """How to run a request: how many outputs, which seeds, which file format.

    Seeds: ``seeds`` as listed; else ``params.seed``, ``params.seed + 1``, ...; else random ones.
    """

    batch_size: int = Parameter(
        "Number of covers; seeds count up from `seed`, or are drawn. Over HTTP several are answered as JSON.",
        range=(1, MAX_BATCH),
        proof=SEED.proof,
    ).field(2)
    allow_lm_batch: bool = False
    use_random_seed: bool = Parameter("Whether a seed is drawn where none is given.", proof=SEED.proof).field(True)
    seeds: list[int] | int | None = Parameter(
        "A seed for each cover, in place of `seed`.", proof=SEED.proof
    ).field(None)
    lm_batch_chunk_size: int = 8
    constrained_decoding_debug: bool = False
    audio_format: str = Parameter("Format of the files.", choices=FORMATS, proof=_FILES).field("flac")
    mp3_bitrate: str = Parameter(
        "Bit rate of mp3, opus and aac, such as `192k`.", needs=(COMPRESSED,), in_item=False, proof=_FILES
    ).field("128k")
    mp3_sample_rate: int = Parameter(
        "Sample rate of mp3.", choices=MP3_RATES, unit="Hz", needs=(MP3,), in_item=False, proof=_FILES
    ).field(SAMPLE_RATE)


# What a request may set, by name; any other field is taken at its default alone.
SUPPORTED = parameters_of(GenerationParams)
SUPPORTED_CONFIG = parameters_of(GenerationConfig)
