"""The setting of a cover: every knob besides the track, its words and its seed, as requested."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, get_type_hints

from acestep.constants import COVER_TASKS, RANDOM_SEED, SEED_LIMIT
from acestep.errors import RequestError
from acestep.parameters.suggestions import nearest
from acestep.parameters.values import as_number, as_text, as_whole_number, unix_lines

BLENDS = ("switch", "velocity", "embed", "embed_context")
GUIDANCES = ("apg", "adg", "adg_w_norm", "adg_wo_clip", "cfg")
INTERVAL_AXES = ("step", "t", "one_minus_t")


@dataclass(frozen=True)
class CoverSetting:
    """What steers a cover. None means the model's own value, 0 or False that a feature is off.

    task_type: "cover" follows the source's 5 Hz codes, "cover-nofsq" its latents, which is closer.
    audio_cover_strength: 1 follows the source throughout, 0 not at all; ``blend`` says what lies between.
    blend: "switch" follows the source for the first int(steps x strength) steps and then the caption alone over
        silence, both guided. "velocity" mixes, at every step, the guided velocity of the cover instruction with
        the unguided one of the text instruction; both see the source. "embed" runs once, on interpolated states
        of the two prompts, over the source; "embed_context" also interpolates the source with silence.
    cover_noise_strength: start that far along the way, from the noised latents of the source itself.
    guidance_scale: 1 is none. Turbo models are distilled with guidance and ignore it.
    guidance: "apg" (adaptive projected), "adg" (angle-based), "adg_w_norm", "adg_wo_clip" or plain "cfg".
    cfg_interval_start, cfg_interval_end: guidance is on while start <= position <= end.
    cfg_interval_on: the position: "step" i / n, "t" the flow time (1 noise .. 0 data), or "one_minus_t".
    inference_steps: None is 8 on turbo and 28 elsewhere.
    shift: > 1 spends more steps near noise.
    timesteps: explicit flow times in place of inference_steps and shift.
    infer_method: "ode" follows the flow, "sde" adds fresh noise after each step, drawn from seed and step.
    sde_time: the noise level that "sde" returns to: that of the next step ("scheduled"), or 1 - (i + 1) / n
        whatever the shift ("unshifted", what upstream's base models do).
    sampler_mode: "euler", or "heun": a second evaluation per step corrects the first.
    velocity_norm_threshold: limits a velocity's norm to this share of the state's.
    velocity_ema_factor: share of the last step's velocity in this one's.
    dcw_enabled, dcw_mode, dcw_scaler, dcw_high_scaler: wavelet correction of each step (``acestep.sampling.dcw``).
    retake_variance, retake_seed: turn the start noise towards that of another seed; 1 replaces it.
    reference_pick: which 30 s of reference_audio are heard: "fixed" start, third and end; "random" ten seconds of
        each third, drawn from the seed; "full" all of it.
    flow_edit_morph: move the source along the difference between two captions instead of starting from noise;
        base and sft models only.
    flow_edit_source_caption, flow_edit_source_lyrics: what the source is, in words.
    flow_edit_n_min, flow_edit_n_max: share of the steps before the edit begins, and at which it ends.
    flow_edit_n_avg: noise draws averaged per step.
    """

    task_type: str = "cover"
    audio_cover_strength: float = 0.5
    blend: str = "switch"
    cover_noise_strength: float = 0.0
    guidance_scale: float = 9.0
    guidance: str = "apg"
    cfg_interval_start: float = 0.0
    cfg_interval_end: float = 0.95
    cfg_interval_on: str = "step"
    inference_steps: int | None = None
    shift: float = 3.0
    timesteps: tuple[float, ...] | None = None
    infer_method: str = "ode"
    sde_time: str = "scheduled"
    sampler_mode: str = "euler"
    velocity_norm_threshold: float = 0.0
    velocity_ema_factor: float = 0.0
    dcw_enabled: bool = False
    dcw_mode: str = "double"
    dcw_scaler: float = 0.05
    dcw_high_scaler: float = 0.02
    retake_variance: float = 0.0
    retake_seed: int | None = None
    reference_pick: str = "fixed"
    flow_edit_morph: bool = False
    flow_edit_source_caption: str = ""
    flow_edit_source_lyrics: str = ""
    flow_edit_n_min: float = 0.0
    flow_edit_n_max: float = 1.0
    flow_edit_n_avg: int = 1


SETTING_FIELDS = tuple(field.name for field in fields(CoverSetting))
SETTING_TYPES = {name: kind for name, kind in get_type_hints(CoverSetting).items() if name in SETTING_FIELDS}

CHOICES = {
    "task_type": COVER_TASKS,
    "blend": BLENDS,
    "guidance": GUIDANCES,
    "cfg_interval_on": INTERVAL_AXES,
    "infer_method": ("ode", "sde"),
    "sde_time": ("scheduled", "unshifted"),
    "sampler_mode": ("euler", "heun"),
    "dcw_mode": ("double", "low", "high", "pix"),
    "reference_pick": ("fixed", "random", "full"),
}
RANGES: dict[str, tuple[float, float]] = {
    "audio_cover_strength": (0, 1),
    "cover_noise_strength": (0, 1),
    "guidance_scale": (1, 100),
    "cfg_interval_start": (0, 1),
    "cfg_interval_end": (0, 1),
    "inference_steps": (1, 1000),
    "shift": (0.01, 100),
    "velocity_norm_threshold": (0, 100),
    "velocity_ema_factor": (0, 0.99),
    "dcw_scaler": (-1, 1),
    "dcw_high_scaler": (-1, 1),
    "retake_variance": (0, 1),
    "retake_seed": (0, SEED_LIMIT - 1),
    "flow_edit_n_min": (0, 1),
    "flow_edit_n_max": (0, 1),
    "flow_edit_n_avg": (1, 64),
}


def check(setting: CoverSetting) -> None:
    """Refuse values without a meaning, alone and together.

    Raises:
        RequestError: naming the parameter, its value and what is allowed.
    """
    for name in SETTING_FIELDS:
        _check_value(name, getattr(setting, name))
    for low_name, high_name in (
        ("cfg_interval_start", "cfg_interval_end"),
        ("flow_edit_n_min", "flow_edit_n_max"),
    ):
        start, end = getattr(setting, low_name), getattr(setting, high_name)
        if start > end:
            raise RequestError(
                f"{low_name} {start:g} lies behind {high_name} {end:g}; lower the one or raise the other"
            )
    if setting.retake_variance > 0 and setting.retake_seed is None:
        raise RequestError(
            f"retake_variance {setting.retake_variance:g} turns towards the noise of another seed; "
            "give retake_seed"
        )
    _check_combinations(setting)


def _check_value(name: str, value: Any) -> None:
    if name in CHOICES and value not in CHOICES[name]:
        raise RequestError(f"{name} {value!r} is unknown; use one of {', '.join(CHOICES[name])}")
    if name in RANGES and value is not None:
        low, high = RANGES[name]
        if not (math.isfinite(value) and low <= value <= high):
            raise RequestError(f"{name} {value:g} is out of range; allowed: {low:g}..{high:g}")
    if name == "timesteps" and value is not None:
        falling = all(a > b for a, b in pairwise(value))
        if len(value) < 2 or not falling or not all(0 <= t <= 1 for t in value):
            raise RequestError(f"timesteps {list(value)}: give at least two times that fall from 1 towards 0")


def _check_combinations(setting: CoverSetting) -> None:
    heun, sde, dcw = setting.sampler_mode == "heun", setting.infer_method == "sde", setting.dcw_enabled
    if sde and heun:
        raise RequestError("sampler_mode 'heun' corrects an ODE step; with infer_method 'sde' use 'euler'")
    if sde and dcw:
        raise RequestError("dcw_enabled corrects an ODE step; switch it off, or use infer_method 'ode'")
    if not setting.flow_edit_morph:
        return
    if not setting.flow_edit_source_caption.strip():
        raise RequestError("flow_edit_morph moves from one caption to another; give flow_edit_source_caption")
    for name, value, plain in (
        ("infer_method", setting.infer_method, "ode"),
        ("sampler_mode", setting.sampler_mode, "euler"),
        ("dcw_enabled", setting.dcw_enabled, False),
        ("guidance", setting.guidance, "apg"),
        ("cover_noise_strength", setting.cover_noise_strength, 0.0),
        ("retake_variance", setting.retake_variance, 0.0),
    ):
        if value != plain:
            raise RequestError(f"{name} {value!r} does not go with flow_edit_morph; use {plain!r}")


def parse_setting(values: Mapping[str, Any], base: CoverSetting | None = None) -> CoverSetting:
    """A setting from named values (strings allowed, as a CSV has them) laid over ``base``.

    Raises:
        RequestError: see ``parse_values``, or values do not go together.
    """
    setting = replace(base or CoverSetting(), **parse_values(values))
    check(setting)
    return setting


def parse_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Named values in their own types, each checked alone.

    Raises:
        RequestError: a name is unknown (the nearest one is named), or a value is not of the field's kind or is out
            of range.
    """
    parsed = {}
    for name, value in values.items():
        if name not in SETTING_FIELDS:
            raise RequestError(unknown_setting(name))
        parsed[name] = _typed(name, value)
        _check_value(name, parsed[name])
    return parsed


def check_seed(value: Any) -> int:
    """A seed as a whole number in 0..2^32-1, or ``RANDOM_SEED``.

    Raises:
        RequestError: it is neither.
    """
    seed = as_whole_number("seed", value)
    if seed != RANDOM_SEED and not 0 <= seed < SEED_LIMIT:
        raise RequestError(
            f"seed {value!r} is out of range; allowed: 0..{SEED_LIMIT - 1}, or {RANDOM_SEED} for a random one"
        )
    return seed


def unknown_setting(name: object, others: tuple[str, ...] = ()) -> str:
    """What to say of a name that is neither a setting's nor one of ``others``: the nearest one, or all."""
    known = (*others, *SETTING_FIELDS)
    near = " or ".join(map(repr, nearest(str(name), known)))
    hint = f"; did you mean {near}?" if near else f"; known: {', '.join(known)}"
    return f"unknown setting {name!r}{hint}"


def _typed(name: str, value: Any) -> Any:
    kind = SETTING_TYPES[name]
    if value is None and kind in (int | None, tuple[float, ...] | None):
        return None
    if kind is str:
        return unix_lines(as_text(name, value))
    if kind is float:
        return as_number(name, value)
    if kind in (int, int | None):
        return as_whole_number(name, value)
    if kind is bool:
        try:
            return _boolean(value)
        except ValueError:
            raise RequestError(f"{name} {value!r:.80} is not true or false") from None
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise RequestError(f"{name} {value!r:.80} is not a list of numbers")
    return tuple(as_number(name, part) for part in parts)


def _boolean(value: Any) -> bool:
    words = {
        "true": True,
        "1": True,
        "1.0": True,
        "yes": True,
        "false": False,
        "0": False,
        "0.0": False,
        "no": False,
    }
    text = str(value).strip().lower()
    if text not in words:
        raise ValueError
    return words[text]
