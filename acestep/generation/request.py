"""Validate a request to ``generate_music``, and derive its setting, stages, prompt, codes and seeds."""

import random
import re
from dataclasses import fields, replace
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from acestep.constants import (
    COVER_TASKS,
    FSQ_CODES,
    INSTRUCTIONS,
    INSTRUMENTAL,
    RANDOM_SEED,
    SEED_LIMIT,
)
from acestep.errors import RequestError
from acestep.generation.params import (
    COMPRESSED,
    MP3,
    NORMALIZED,
    SUPPORTED,
    SUPPORTED_CONFIG,
    THINKING,
    GenerationConfig,
    GenerationParams,
)
from acestep.generation.stages import Stage, parse_stages
from acestep.language.prompt import Prompt, check_prompt
from acestep.parameters.declaration import check_value, ineffective_notes
from acestep.parameters.values import as_number, as_text, as_whole_number, is_empty
from acestep.sampling.setting import SETTING_FIELDS, CoverSetting, check_seed, parse_setting

Request = TypeVar("Request", GenerationParams, GenerationConfig)


def check_request(params: GenerationParams, config: GenerationConfig) -> tuple[GenerationParams, GenerationConfig]:
    """Convert all values to the types of their fields, and empty values (NaN, None) to defaults.

    Setting and prompt are validated by ``setting_of`` and ``prompt_of``.

    Raises:
        RequestError: a value is unsupported or not allowed.
    """
    _refuse_unsupported(params, config)
    params, config = _in_own_kinds(params), _in_own_kinds(config)
    for name, parameter in SUPPORTED.items():
        if not parameter.in_item:
            check_value(parameter, getattr(params, name))
    for name, parameter in SUPPORTED_CONFIG.items():
        check_value(parameter, getattr(config, name))
    parse_bitrate(config.mp3_bitrate)
    return params, config


def setting_of(params: GenerationParams) -> CoverSetting:
    """The sampler parameters of a request.

    Raises:
        RequestError: a value is invalid, or ``use_adg`` contradicts ``guidance``.
    """
    values = {name: getattr(params, name) for name in SETTING_FIELDS}
    if params.use_adg and not str(params.guidance).startswith("adg"):
        if params.guidance != GenerationParams.guidance:
            reason = f"asks for adg and guidance for {params.guidance!r}"
            raise RequestError("conflict", reason, "give only one of them", "use_adg")
        values["guidance"] = "adg"
    return parse_setting(values)


def stages_of(params: GenerationParams) -> tuple[Stage, ...]:
    """The chain of covers of a request; usually one.

    Raises:
        RequestError: see ``setting_of`` and ``parse_stages``.
    """
    return parse_stages(params.stages, setting_of(params))


def codes_of(params: GenerationParams) -> list[int]:
    """Parse ``audio_codes``, such as ``<|audio_code_17|><|audio_code_4|>``.

    Raises:
        RequestError: the text has another form, or a code is out of range.
    """
    text = params.audio_codes.strip()
    codes = [int(number) for number in re.findall(r"<\|audio_code_(\d+)\|>", text)]
    if re.sub(r"<\|audio_code_\d+\|>|\s", "", text):
        remedy = "write codes as <|audio_code_17|><|audio_code_4|>"
        raise RequestError("invalid_value", "cannot be read", remedy, "audio_codes", text)
    wrong = [code for code in codes if code >= FSQ_CODES]
    if wrong:
        raise RequestError("out_of_range", field="audio_codes", value=wrong[0], allowed=f"0..{FSQ_CODES - 1}")
    return codes


def prompt_of(params: GenerationParams) -> tuple[Prompt, list[str]]:
    """The validated prompt of a request, with notes.

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


def ineffective_request_notes(params: GenerationParams, config: GenerationConfig) -> list[str]:
    """A note for each given parameter without effect, except those of the setting."""
    notes = []
    if params.duration > 0:
        notes.append(f"duration {params.duration:g} has no effect: a cover lasts as long as its source")
    if params.instrumental and params.lyrics.strip() not in ("", INSTRUMENTAL):
        notes.append("lyrics have no effect: instrumental is on")
    if params.seed >= 0 and config.seeds is not None and pick_seeds(params.seed, config)[0] != params.seed:
        notes.append(f"seed {params.seed} has no effect: seeds are given")
    notes += ineffective_notes(SUPPORTED, params, (THINKING, NORMALIZED))
    notes += ineffective_notes(SUPPORTED_CONFIG, config, (COMPRESSED, MP3))
    return notes


def pick_seeds(seed: int, config: GenerationConfig) -> list[int]:
    """The seed of each output: the listed seeds, else the given seed and its successors, else random seeds.

    Raises:
        RequestError: a seed is out of range, or fewer seeds than outputs are listed.
    """
    listed = [config.seeds] if isinstance(config.seeds, int | float | str) else config.seeds
    if listed is None and seed == RANDOM_SEED and not config.use_random_seed:
        raise RequestError("missing_value", "is off and no seed is given", "set seed or seeds", "use_random_seed")
    seeds = [check_seed(value) for value in ([seed] if listed is None else listed)]
    if len(seeds) == 1:
        step = 0 if seeds[0] == RANDOM_SEED else 1
        seeds = [check_seed(seeds[0] + step * k) for k in range(config.batch_size)]
    if len(seeds) != config.batch_size:
        reason = f"has {len(seeds)} seeds for batch_size {config.batch_size}"
        raise RequestError("conflict", reason, "list one per output", "seeds")
    return [random.SystemRandom().randrange(SEED_LIMIT) if seed == RANDOM_SEED else seed for seed in seeds]


def _in_own_kinds(request: Request) -> Request:
    """Convert values to the types of their fields; ``parse_setting`` converts the sampler's parameters."""
    values: dict[str, Any] = {}
    hints = get_type_hints(type(request))
    for item in fields(request):
        value = getattr(request, item.name)
        if is_empty(value):
            values[item.name] = (
                None if value is None and type(None) in get_args(hints[item.name]) else item.default
            )
        elif item.name not in SETTING_FIELDS:
            values[item.name] = _of_kind(item.name, value, hints[item.name])
    return replace(request, **values)


def _of_kind(name: str, value: Any, hint: Any) -> Any:
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    is_list = any(get_origin(kind) is list for kind in kinds)
    if is_list and isinstance(value, list | tuple):
        return value
    if int in kinds:
        return as_whole_number(name, value)
    if float in kinds:
        return value if type(value) in (int, float) else as_number(name, value)
    if str in kinds:
        return as_text(name, value)
    if bool in kinds and isinstance(value, bool):
        return value
    wanted = "a list" if is_list else "True or False"
    raise RequestError("wrong_type", f"is not {wanted}", field=name, value=value)


def _refuse_unsupported(params: GenerationParams, config: GenerationConfig) -> None:
    if params.task_type not in COVER_TASKS:
        raise RequestError("not_supported", field="task_type", value=params.task_type, allowed=COVER_TASKS)
    for given, default, supported in (
        (params, GenerationParams(), SUPPORTED),
        (config, GenerationConfig(), SUPPORTED_CONFIG),
    ):
        for item in fields(given):
            value = getattr(given, item.name)
            if item.name not in supported and value != getattr(default, item.name) and not is_empty(value):
                remedy = "leave it at its default"
                raise RequestError("not_supported", "", remedy, item.name, value)


def parse_bitrate(bitrate: str) -> int:
    """The number in a bitrate such as ``128k``.

    Raises:
        RequestError: it is not one between 32k and 320k.
    """
    digits = str(bitrate).lower().removesuffix("k")
    if not digits.isdigit() or not 32 <= int(digits) <= 320:
        remedy = "write it as '128k' (32k..320k)"
        raise RequestError("invalid_value", "is not a bitrate", remedy, "mp3_bitrate", bitrate)
    return int(digits)
