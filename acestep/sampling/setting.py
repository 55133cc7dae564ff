"""The setting of a cover: declaration and validation of every sampler parameter.

Longer than 300 lines because every parameter is declared here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from acestep.constants import COVER_TASKS, RANDOM_SEED, SEED_LIMIT
from acestep.errors import RequestError
from acestep.parameters.declaration import Parameter, check_value, parameters_of
from acestep.parameters.suggestions import nearest
from acestep.parameters.values import as_kind, as_whole_number
from acestep.sampling.effect_conditions import (
    BLENDED,
    DCW,
    EDITED,
    GUIDED,
    NOT_EDITED,
    RETAKEN,
    SDE,
    TIMES_ARE_OPEN,
    WITH_GUIDANCE,
)

_SAMPLER = "tests/acestep/sampling/test_sampler.py"
_INFERENCE = "tests/acestep/test_inference.py"


@dataclass(frozen=True)
class CoverSetting:
    """Sampler parameters of a cover, without track, prompt and seed; validated on construction.

    None is the model's default; 0 or False disables a feature.

    Raises:
        RequestError: a value is not allowed, or two values contradict each other.
    """

    task_type: str = Parameter(
        "What a cover follows: the source's 5 Hz codes, or its latents (`cover-nofsq`), which is closer.",
        choices=COVER_TASKS,
        proof="[e2e.turbo_nofsq.latents]",
    ).field("cover")
    audio_cover_strength: float = Parameter(
        "Upstream's LM Codes Strength: 1 follows the source throughout, 0 not at all; `blend` says what lies "
        "between.",
        range=(0, 1),
        needs=(NOT_EDITED,),
        short="s{:.2f}",
        label="strength",
        slider=(0, 1, 0.01),
        proof="[loop_base.switch.out]",
    ).field(0.5)
    blend: str = Parameter(
        "`switch` follows the source for the first int(steps x strength) steps, then the caption alone over "
        "silence, both guided; `velocity` mixes at every step the guided velocity of the cover instruction with "
        "the unguided one of the text instruction, both over the source; `embed` runs once, on interpolated "
        "states of the two prompts, over the source; `embed_context` also interpolates the source with silence.",
        choices=("switch", "velocity", "embed", "embed_context"),
        needs=(NOT_EDITED, BLENDED),
        proof="[loop_base_velocity_blend.velocity_blend.out]",
    ).field("switch")
    cover_noise_strength: float = Parameter(
        "Start that far along the way, from the noised latents of the source itself; 0 starts from noise.",
        range=(0, 1),
        short="c{:.2f}",
        slider=(0, 1, 0.01),
        proof="[loop_base.cover_noise_switch.out]",
    ).field(0.0)
    guidance_scale: float = Parameter(
        "How strongly the caption pulls; 1 is no guidance. Turbo models have it built in and ignore this.",
        range=(1, 100),
        models=WITH_GUIDANCE,
        short="g{:.1f}",
        label="guidance",
        slider=(1, 15, 0.1),
        proof="[loop_base.ode_cfg.out]",
    ).field(9.0)
    guidance: str = Parameter(
        "Adaptive projected guidance, angle-based guidance in three variants, or plain classifier-free guidance.",
        choices=("apg", "adg", "adg_w_norm", "adg_wo_clip", "cfg"),
        needs=(GUIDED,),
        proof="[guidance.out_adg_w_norm]",
    ).field("apg")
    cfg_interval_start: float = Parameter(
        "Guidance is on from this position, which `cfg_interval_on` defines.",
        range=(0, 1),
        needs=(GUIDED,),
        short="from{:g}",
        label="guidance from",
        slider=(0, 1, 0.01),
        proof="tests/acestep/sampling/test_plan.py::test_interval_has_three_readings",
    ).field(0.0)
    cfg_interval_end: float = Parameter(
        "Guidance is on up to this position.",
        range=(0, 1),
        needs=(GUIDED,),
        short="to{:g}",
        label="guidance to",
        slider=(0, 1, 0.01),
        proof="[loop_base.interval_on_step.out]",
    ).field(0.95)
    cfg_interval_on: str = Parameter(
        "Position in the run: `step` is i / n, `t` the flow time (1 noise .. 0 data), `one_minus_t` 1 - t.",
        choices=("step", "t", "one_minus_t"),
        needs=(GUIDED,),
        proof="[loop_base.interval_on_t.out]",
    ).field("step")
    inference_steps: int | None = Parameter(
        "Steps of the sampler; null is the model's own number: 8 on turbo, 28 elsewhere.",
        range=(1, 1000),
        models="all; turbo 1 .. 20",
        needs=(TIMES_ARE_OPEN,),
        short="n{}",
        label="steps",
        slider=(1, 100, 1),
        proof="[loop_turbo.turbo_shift2.4_steps6.out]",
    ).field(None)
    shift: float = Parameter(
        "Above 1 spends more steps near noise, where the structure is decided.",
        range=(0.01, 100),
        needs=(TIMES_ARE_OPEN,),
        short="shift{:g}",
        slider=(1, 5, 0.1),
        proof="[loop_base.ode_cfg_shift1.out]",
    ).field(3.0)
    timesteps: tuple[float, ...] | None = Parameter(
        "Flow times that fall from 1 towards 0, in place of `inference_steps` and `shift`.",
        models="all; turbo: its twenty times",
        proof="[loop_turbo.turbo_timesteps.out]",
    ).field(None)
    infer_method: str = Parameter(
        "`ode` follows the flow; `sde` adds fresh noise after each step, drawn from seed and step.",
        choices=("ode", "sde"),
        proof="[loop_turbo.turbo_sde.out]",
    ).field("ode")
    sde_time: str = Parameter(
        "Noise level that `sde` returns to: that of the next step (`scheduled`), or 1 - (i + 1) / n whatever the "
        "shift (`unshifted`, as upstream's base models do).",
        choices=("scheduled", "unshifted"),
        models=WITH_GUIDANCE,
        needs=(SDE,),
        proof="[loop_base.sde_upstream.out]",
    ).field("scheduled")
    sampler_mode: str = Parameter(
        "`heun` corrects each step by a second evaluation.",
        choices=("euler", "heun"),
        proof="[loop_base.heun.out]",
    ).field("euler")
    velocity_norm_threshold: float = Parameter(
        "Limits a velocity's norm to this share of the state's; 0 is off.",
        range=(0, 100),
        proof="[loop_base.norm_ema.out]",
    ).field(0.0)
    velocity_ema_factor: float = Parameter(
        "Share of the last step's velocity in this one's.", range=(0, 0.99), proof="[loop_base.norm_ema.out]"
    ).field(0.0)
    dcw_enabled: bool = Parameter("Wavelet correction of each step.", proof="[loop_base.dcw.out]").field(False)
    dcw_mode: str = Parameter(
        "Bands that the correction moves.",
        choices=("double", "low", "high", "pix"),
        needs=(DCW,),
        proof="[dcw.out_low]",
    ).field("double")
    dcw_scaler: float = Parameter(
        "How far the low band moves, or the only one outside `double`.",
        range=(-1, 1),
        needs=(DCW,),
        proof="[loop_turbo.turbo_dcw.out]",
    ).field(0.05)
    dcw_high_scaler: float = Parameter(
        "How far the high band of `double` moves.", range=(-1, 1), needs=(DCW,), proof="[dcw.out_double]"
    ).field(0.02)
    retake_variance: float = Parameter(
        "Turns the start noise towards that of `retake_seed`; 1 replaces it.",
        range=(0, 1),
        proof=f"{_SAMPLER}::test_retake_turns_one_noise_into_another",
    ).field(0.0)
    retake_seed: int | None = Parameter(
        "Seed of the noise that `retake_variance` turns towards.",
        range=(0, SEED_LIMIT - 1),
        needs=(RETAKEN,),
        proof=f"{_SAMPLER}::test_retake_turns_one_noise_into_another",
    ).field(None)
    reference_pick: str = Parameter(
        "What of `reference_audio` is heard: 30 s from start, third and end (`fixed`), ten seconds of each third, "
        "drawn from the seed (`random`), or all of it (`full`).",
        choices=("fixed", "random", "full"),
        proof=f"{_INFERENCE}::test_reference_picks",
    ).field("fixed")
    flow_edit_morph: bool = Parameter(
        "Moves the source along the difference between two captions instead of starting from noise.",
        models=WITH_GUIDANCE,
        proof="[flow_edit.full.out]",
    ).field(False)
    flow_edit_source_caption: str = Parameter(
        "What the source is, in words.",
        needs=(EDITED,),
        proof=f"{_SAMPLER}::test_flow_edit_between_equal_words_leaves_the_source_alone",
    ).field("")
    flow_edit_source_lyrics: str = Parameter(
        "The source's lyrics; empty means those of the track.",
        needs=(EDITED,),
        proof=f"{_INFERENCE}::test_lyrics_of_both_sides_of_an_edit",
    ).field("")
    flow_edit_n_min: float = Parameter(
        "Share of the steps left out at the start.",
        range=(0, 1),
        needs=(EDITED,),
        proof="[flow_edit.window_avg2.out]",
    ).field(0.0)
    flow_edit_n_max: float = Parameter(
        "Share of the steps that the edit ends after.",
        range=(0, 1),
        needs=(EDITED,),
        proof="[flow_edit.window_avg2.out]",
    ).field(1.0)
    flow_edit_n_avg: int = Parameter(
        "Noise draws averaged per step.", range=(1, 64), needs=(EDITED,), proof="[flow_edit.window_avg2.out]"
    ).field(1)

    def __post_init__(self) -> None:
        for name, parameter in PARAMETERS.items():
            check_value(parameter, getattr(self, name))
        _check_times(self.timesteps)
        _check_combinations(self)


PARAMETERS = parameters_of(CoverSetting)
SETTING_FIELDS = tuple(PARAMETERS)
SEED = Parameter(
    "Seed of the start noise; several covers of one request count up from it. -1 draws one; a job draws one for "
    "each track, the same at every launch.",
    name="seed",
    kind=int,
    default=42,
    range=(RANDOM_SEED, SEED_LIMIT - 1),
    proof=f"{_INFERENCE}::test_seeds_count_up_and_do_not_depend_on_the_batch",
)


def parse_setting(values: Mapping[str, Any], base: CoverSetting | None = None) -> CoverSetting:
    """Parse named values, which may be strings, as overrides of ``base``.

    Raises:
        RequestError: see ``parse_values``, or values contradict each other.
    """
    return replace(base or CoverSetting(), **{name: _typed(name, value) for name, value in values.items()})


def parse_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert named values to the types of their parameters, and check each value.

    Raises:
        RequestError: a name is unknown, or a value has the wrong type or is not allowed.
    """
    parsed = {name: _typed(name, value) for name, value in values.items()}
    for name, value in parsed.items():
        check_value(PARAMETERS[name], value)
    _check_times(parsed.get("timesteps"))
    return parsed


def check_seed(value: Any) -> int:
    """Convert a seed to an integer in 0..2^32-1, or ``RANDOM_SEED``.

    Raises:
        RequestError: the seed is out of range.
    """
    seed = as_whole_number("seed", value)
    if seed != RANDOM_SEED and not 0 <= seed < SEED_LIMIT:
        allowed = f"0..{SEED_LIMIT - 1}, or {RANDOM_SEED} for a random one"
        raise RequestError("out_of_range", field="seed", value=value, allowed=allowed)
    return seed


def unknown_setting(name: object, others: tuple[str, ...] = ()) -> RequestError:
    """The error for an unknown parameter name, with the most similar names or all known ones."""
    known = (*others, *SETTING_FIELDS)
    near = " or ".join(map(repr, nearest(str(name), known)))
    remedy = f"did you mean {near}?" if near else f"known: {', '.join(known)}"
    return RequestError("unknown_field", f"unknown setting {name!r}", remedy)


def _typed(name: str, value: Any) -> Any:
    if name not in PARAMETERS:
        raise unknown_setting(name)
    return as_kind(name, PARAMETERS[name].kind, value)


def _check_times(times: tuple[float, ...] | None) -> None:
    if times is None:
        return
    falling = all(a > b for a, b in pairwise(times))
    if len(times) < 2 or not falling or not all(0 <= t <= 1 for t in times):
        remedy = "give at least two times that fall from 1 towards 0"
        raise RequestError("invalid_value", "", remedy, "timesteps", list(times))


def _check_combinations(setting: CoverSetting) -> None:
    for low, high in (("cfg_interval_start", "cfg_interval_end"), ("flow_edit_n_min", "flow_edit_n_max")):
        start, end = getattr(setting, low), getattr(setting, high)
        if start > end:
            remedy = "lower the one or raise the other"
            raise RequestError("conflict", f"lies behind {high} {end:g}", remedy, low, start)
    if setting.retake_variance > 0 and setting.retake_seed is None:
        reason = "turns towards the noise of another seed"
        raise RequestError("conflict", reason, "give retake_seed", "retake_variance", setting.retake_variance)
    heun, sde, dcw = setting.sampler_mode == "heun", setting.infer_method == "sde", setting.dcw_enabled
    if sde and heun:
        remedy = "with infer_method 'sde' use 'euler'"
        raise RequestError("conflict", "corrects an ODE step", remedy, "sampler_mode", setting.sampler_mode)
    if sde and dcw:
        remedy = "switch it off, or use infer_method 'ode'"
        raise RequestError("conflict", "corrects an ODE step", remedy, "dcw_enabled")
    if not setting.flow_edit_morph:
        return
    if not setting.flow_edit_source_caption.strip():
        remedy = "give flow_edit_source_caption"
        raise RequestError("conflict", "moves from one caption to another", remedy, "flow_edit_morph")
    for name in "infer_method sampler_mode dcw_enabled guidance cover_noise_strength retake_variance".split():
        value, plain = getattr(setting, name), PARAMETERS[name].default
        if value != plain:
            raise RequestError("conflict", "does not go with flow_edit_morph", f"use {plain!r}", name, value)
