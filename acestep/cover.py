"""From a requested setting to what each step will evaluate. Pure: no tensors, no files."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

from acestep import schedule
from acestep.constants import COVER_TASKS, MAX_TURBO_STEPS
from acestep.errors import RequestError

INTERVAL_AXES = ("step", "t", "one_minus_t")
BASE_STEPS = 28


@dataclass(frozen=True)
class CoverSetting:
    """Everything that steers a cover besides the track and the seed, as requested.

    task_type: "cover" follows the source's 5 Hz codes, "cover-nofsq" its latents.
    audio_cover_strength: share of the steps, 0..1, that follow the source; the rest follow the text alone.
    guidance_scale: 1 is none. Turbo models are distilled with guidance and ignore it.
    inference_steps: None means the model's own, 8 on turbo and 28 elsewhere.
    shift: > 1 spends more steps near noise.
    cfg_interval_start, cfg_interval_end: guidance is on while start <= position <= end.
    cfg_interval_on: the position: "step" i / n, "t" the flow time (1 noise .. 0 data), or "one_minus_t".
    timesteps: explicit flow times in place of inference_steps and shift.
    """

    task_type: str = "cover"
    audio_cover_strength: float = 0.5
    guidance_scale: float = 9.0
    inference_steps: int | None = None
    shift: float = 3.0
    infer_method: str = "ode"
    cfg_interval_start: float = 0.0
    cfg_interval_end: float = 0.95
    cfg_interval_on: str = "step"
    timesteps: tuple[float, ...] | None = None


SETTING_FIELDS = tuple(field.name for field in fields(CoverSetting))


@dataclass(frozen=True)
class Step:
    """One step from flow time ``t`` to ``t_next``: which condition it reads and whether it is guided."""

    t: float
    t_next: float
    branch: str  # "cover": the source's structure; "text": the caption alone over silence
    guided: bool


@dataclass(frozen=True)
class CoverPlan:
    """What will really run on a given model.

    t_switch: flow time at which the source's structure is let go; None if the text branch never runs.
    notes: what was requested but has no effect, or has another effect, in words.
    """

    task_type: str
    guidance_scale: float
    inference_steps: int
    shift: float | None
    cover_steps: int
    t_switch: float | None
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """What determines the audio; two requests with equal identities give the same samples."""
        return {
            "task_type": self.task_type if self.cover_steps else "text",
            "guidance_scale": self.guidance_scale,
            "steps": [[s.t, s.t_next, s.branch, s.guided] for s in self.steps],
        }

    @property
    def evaluations(self) -> int:
        """Network evaluations: one per step, one more where guided."""
        return sum(1 + step.guided for step in self.steps)


def resolve(setting: CoverSetting, is_turbo: bool) -> CoverPlan:
    """What ``setting`` means on a model.

    Raises:
        RequestError: a value is out of range.
    """
    check(setting)
    notes: list[str] = []
    times, shift = _times(setting, is_turbo, notes)
    n = len(times) - 1
    guidance = setting.guidance_scale
    if is_turbo and guidance != 1.0:
        notes.append(f"guidance_scale {guidance:g} has no effect: turbo models have guidance built in; 1 is used")
        guidance = 1.0
    cover_steps = int(n * setting.audio_cover_strength)
    if setting.audio_cover_strength > 0 and cover_steps == 0:
        notes.append(
            f"audio_cover_strength {setting.audio_cover_strength:g} of {n} steps is less than one step: "
            "the source is not followed"
        )
    steps = tuple(
        Step(
            t=times[i],
            t_next=times[i + 1],
            branch="cover" if i < cover_steps else "text",
            guided=guidance > 1.0 and _in_interval(setting, i, n, times[i]),
        )
        for i in range(n)
    )
    if guidance > 1.0 and not any(step.guided for step in steps):
        notes.append(
            f"guidance_scale {guidance:g} has no effect: no step lies in the interval "
            f"[{setting.cfg_interval_start:g}, {setting.cfg_interval_end:g}]"
        )
        guidance = 1.0
    return CoverPlan(
        task_type=setting.task_type,
        guidance_scale=guidance,
        inference_steps=n,
        shift=shift,
        cover_steps=cover_steps,
        t_switch=times[cover_steps] if cover_steps < n else None,
        steps=steps,
        notes=tuple(notes),
    )


def _times(setting: CoverSetting, is_turbo: bool, notes: list[str]) -> tuple[tuple[float, ...], float | None]:
    if setting.timesteps is not None:
        given = setting.timesteps
        times = schedule.explicit_turbo(given) if is_turbo else schedule.explicit(given)
        if times != given and times[:-1] != given:
            notes.append(f"timesteps run as {[round(t, 6) for t in times]}: turbo models know twenty times")
        return times, None
    steps = setting.inference_steps or (schedule.TURBO_STEPS if is_turbo else BASE_STEPS)
    if is_turbo and steps > MAX_TURBO_STEPS:
        notes.append(f"inference_steps {steps} is cut to {MAX_TURBO_STEPS}, the most a turbo model takes")
        steps = MAX_TURBO_STEPS
    elif is_turbo and steps > schedule.TURBO_STEPS:
        notes.append(f"inference_steps {steps}: turbo models were distilled for {schedule.TURBO_STEPS}")
    return schedule.shifted(steps, setting.shift), setting.shift


def _in_interval(setting: CoverSetting, i: int, n: int, t: float) -> bool:
    position = {"step": i / n, "t": t, "one_minus_t": 1 - t}[setting.cfg_interval_on]
    return setting.cfg_interval_start <= position <= setting.cfg_interval_end


def check(setting: CoverSetting) -> None:
    """Refuse values without a meaning.

    Raises:
        RequestError: naming the parameter, its value and what is allowed.
    """
    _one_of("task_type", setting.task_type, COVER_TASKS)
    _one_of("cfg_interval_on", setting.cfg_interval_on, INTERVAL_AXES)
    if setting.infer_method != "ode":
        raise RequestError(f"infer_method {setting.infer_method!r} is not supported yet; use 'ode'")
    _within("audio_cover_strength", setting.audio_cover_strength, 0, 1)
    _within("guidance_scale", setting.guidance_scale, 1, 100)
    _within("cfg_interval_start", setting.cfg_interval_start, 0, 1)
    _within("cfg_interval_end", setting.cfg_interval_end, 0, 1)
    if setting.cfg_interval_start > setting.cfg_interval_end:
        raise RequestError(
            f"cfg_interval_start {setting.cfg_interval_start:g} lies behind "
            f"cfg_interval_end {setting.cfg_interval_end:g}; swap them"
        )
    if setting.inference_steps is not None:
        _within("inference_steps", setting.inference_steps, 1, 1000)
    _within("shift", setting.shift, 0.01, 100)
    if setting.timesteps is not None:
        times = setting.timesteps
        falling = all(a > b for a, b in pairwise(times))
        if len(times) < 2 or not falling or not all(0 <= t <= 1 for t in times):
            raise RequestError(f"timesteps {list(times)}: give at least two times that fall from 1 towards 0")


def parse_setting(values: Mapping[str, Any], base: CoverSetting | None = None) -> CoverSetting:
    """A setting from named values (strings allowed, as a CSV has them) laid over ``base``.

    Raises:
        RequestError: a name is unknown (the nearest one is named) or a value is not of the field's kind.
    """
    merged = asdict(base or CoverSetting())
    for name, value in values.items():
        if name not in SETTING_FIELDS:
            near = difflib.get_close_matches(name, SETTING_FIELDS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(SETTING_FIELDS)}"
            raise RequestError(f"unknown setting {name!r}{hint}")
        merged[name] = _typed(name, value)
    setting = CoverSetting(**merged)
    check(setting)
    return setting


def _typed(name: str, value: Any) -> Any:
    if name in ("task_type", "infer_method", "cfg_interval_on"):
        return str(value)
    if value is None and name in ("inference_steps", "timesteps"):
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        if name == "timesteps":
            parts = value.split(",") if isinstance(value, str) else value
            return tuple(float(part) for part in parts)
        number = float(value)
        if name == "inference_steps":
            if not number.is_integer():
                raise ValueError
            return int(number)
        return number
    except (TypeError, ValueError, OverflowError):
        kind = {"inference_steps": "a whole number", "timesteps": "a list of numbers"}.get(name, "a number")
        raise RequestError(f"{name} {value!r} is not {kind}") from None


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise RequestError(f"{name} {value!r} is unknown; use one of {', '.join(allowed)}")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise RequestError(f"{name} {value:g} is out of range; allowed: {low:g}..{high:g}")
