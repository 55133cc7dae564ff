"""Expand base values, grid and stages into settings with ids and readable names."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from acestep.errors import RequestError
from acestep.generation.stages import WORDS, Stage, parse_stages
from acestep.sampling.plan import CoverPlan, resolve
from acestep.sampling.setting import PARAMETERS, CoverSetting, check_seed, parse_setting, parse_values

# Abbreviations of swept parameters in run names; lists show about 20 characters of a name.
SHORT = {"stage": "stage{}"} | {name: parameter.short for name, parameter in PARAMETERS.items() if parameter.short}
DUPLICATES = ("refuse", "run_once")


class RepeatsError(RequestError):
    """Several settings of a grid give identical audio."""


@dataclass(frozen=True)
class Setting:
    """One point of a sweep: parameters and a seed.

    Settings that differ only in the seed share id and name, because comparisons average over seeds.

    stages: chain of covers; the last stage is this setting's, the others produce its source.
    parent: id of the setting that the last stage starts from, in a chain.
    varied: parameters that differ between the settings of a job, with this setting's values; excludes the seed.
    stands_for: names of equivalent settings that are not run.
    tracks: ids of the tracks to apply it to; None is all.
    """

    stages: tuple[Stage, ...]
    seed: int
    setting_id: str
    name: str
    varied: Mapping[str, Any]
    parent: str | None = None
    stands_for: tuple[str, ...] = ()
    tracks: frozenset[str] | None = None

    @property
    def cover(self) -> CoverSetting:
        return self.stages[-1].setting

    def values(self) -> dict[str, Any]:
        """All parameters by name, including the seed and the last stage's own caption and lyrics."""
        words = {name: text for name in WORDS if (text := getattr(self.stages[-1], name)) is not None}
        return asdict(self.cover) | words | {"seed": self.seed}

    def plans(self, is_turbo: bool) -> tuple[CoverPlan, ...]:
        return tuple(resolve(stage.setting, is_turbo) for stage in self.stages)


@dataclass(frozen=True)
class Point:
    """Overrides of a job's values, for all tracks or for some."""

    values: Mapping[str, Any]
    tracks: frozenset[str] | None = None


def make_settings(
    base: Mapping[str, Any],
    grid: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]] | None = None,
    points: Sequence[Point] = (),
) -> list[Setting]:
    """Expand the cross product of ``grid`` (a value or a list per name), or the listed ``points``, over ``base``.

    With ``stages``, every point is a chain of covers and each of its stages a setting.

    Raises:
        RequestError: a value is out of range, a list is empty or has duplicates, or a parameter is set by both a
            stage and a point.
    """
    if points:
        named = dict.fromkeys(name for point in points for name in point.values)
    else:
        axes = {name: _axis(name, values) for name, values in grid.items() if values is not None}
        points = [Point(dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]
        named = {name: None for name, values in axes.items() if len(values) > 1}
    varied = [name for name in named if name != "seed"]
    settings = []
    for point in points:
        values = dict(base) | dict(point.values)
        seed = check_seed(values.pop("seed"))
        chain = parse_stages(stages, parse_setting(values))
        fixed = sorted(own_names(chain) & point.values.keys())
        if fixed:
            remedy = "take it out of one of them"
            raise RequestError("conflict", f"{fixed[0]} is swept by the grid and set by a stage", remedy)
        settings += [replace(setting, tracks=point.tracks) for setting in _chain(chain, seed, varied)]
    return _with_unique_names(settings)


def short_name(values: Mapping[str, Any]) -> str:
    """Abbreviated parameters, such as "s0.30 g7.0"."""
    return " ".join(SHORT.get(name, name + "={}").format(value) for name, value in values.items())


def names_of(settings: Iterable[Setting], max_names: int) -> str:
    """The first distinct names, such as "s0.30 g7.0, s0.30 g9.0, ..."."""
    names = list(dict.fromkeys(setting.name for setting in settings))
    return ", ".join(names[:max_names]) + (", ..." if len(names) > max_names else "")


def own_names(stages: Sequence[Stage]) -> set[str]:
    """Names of the parameters that any stage sets itself."""
    return {name for stage in stages for name in stage.own}


def _axis(name: str, values: Any) -> list[Any]:
    nested = name == "timesteps"
    listed = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else [values]
    if nested and listed and not any(value is None or isinstance(value, Sequence) for value in listed):
        listed = [listed]
    if not listed:
        remedy = "give at least one value, or leave it out"
        raise RequestError("missing_value", "", remedy, f"grid.{name}")
    parsed = [check_seed(value) if name == "seed" else parse_values({name: value})[name] for value in listed]
    twice = [str(value) for k, value in enumerate(parsed) if value in parsed[:k]]
    if twice:
        remedy = "each value makes one setting"
        raise RequestError("conflict", f"lists {', '.join(twice)} twice", remedy, f"grid.{name}")
    return parsed


def _with_unique_names(settings: list[Setting]) -> list[Setting]:
    """Replace abbreviated names by full ones if the abbreviations are ambiguous."""
    if len({setting.name for setting in settings}) == len({setting.setting_id for setting in settings}):
        return settings
    return [
        replace(setting, name=" ".join(f"{key}={value}" for key, value in setting.varied.items()))
        for setting in settings
    ]


def _chain(stages: tuple[Stage, ...], seed: int, varied: list[str]) -> list[Setting]:
    settings: list[Setting] = []
    for number in range(1, len(stages) + 1):
        chain = stages[:number]
        digest = hashlib.sha256(
            json.dumps([stage.values() for stage in chain], sort_keys=True).encode()
        ).hexdigest()[:12]
        last = chain[-1].setting
        values = asdict(last) | {"stage": number}
        names = [*varied, "stage"] if len(stages) > 1 else varied
        own = short_name({name: values[name] for name in names})
        name = own or short_name({key: values[key] for key in ("audio_cover_strength", "guidance_scale")})
        parent = settings[-1].setting_id if settings else None
        settings.append(Setting(chain, seed, digest, name, {key: values[key] for key in names}, parent))
    return settings


def distinct(settings: Sequence[Setting], is_turbo: bool, duplicates: str = "refuse") -> list[Setting]:
    """Remove settings that give identical audio.

    Args:
        duplicates: "refuse" raises an error; "run_once" keeps the first of each group and records the others in
            ``stands_for``.

    Raises:
        RepeatsError: there are duplicates and ``duplicates`` is "refuse".
        RequestError: ``duplicates`` is unknown.
    """
    if duplicates not in DUPLICATES:
        raise RequestError("unknown_value", field="grid.duplicates", value=duplicates, allowed=DUPLICATES)
    same: dict[str, list[Setting]] = {}
    for setting in settings:
        same.setdefault(_identity(setting, is_turbo), []).append(setting)
    groups = [group for group in same.values() if len(group) > 1]
    if groups and duplicates == "refuse":
        raise RepeatsError(
            "repeated_setting",
            "the grid holds settings that would give identical audio",
            "remove all but one of each line, or keep the first of each with grid.duplicates=run_once:\n"
            + "\n".join(dict.fromkeys(_explained(group, is_turbo) for group in groups)),  # once for all seeds
        )
    kept_id = {s.setting_id: group[0].setting_id for group in same.values() for s in group}
    return [
        replace(
            group[0],
            parent=group[0].parent and kept_id[group[0].parent],
            stands_for=tuple(setting.name for setting in group[1:]),
        )
        for group in same.values()
    ]


def _identity(setting: Setting, is_turbo: bool) -> str:
    plans = [plan.identity() for plan in setting.plans(is_turbo)]
    words = [(stage.caption, stage.lyrics) for stage in setting.stages]
    return json.dumps([plans, words, setting.seed, sorted(setting.tracks or ())])


def _explained(group: Sequence[Setting], is_turbo: bool) -> str:
    plan = group[0].plans(is_turbo)[-1]
    lines = [
        f"  {' = '.join(setting.name for setting in group)}: each runs {plan.inference_steps} steps, "
        f"{plan.cover_steps} of them on the source, guidance {plan.guidance_scale:g}"
    ]
    notes = [note for setting in group for note in setting.plans(is_turbo)[-1].notes]
    return "\n".join(lines + [f"    {note}" for note in dict.fromkeys(notes)])
