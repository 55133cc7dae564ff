"""Settings: the points of a sweep, each with a name a person can read."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from acestep.cover import SETTING_FIELDS, CoverPlan, CoverSetting, parse_setting, resolve
from acestep.errors import RequestError
from pipeline.manifest import check_seed

# How a swept parameter is written in a run's name, where lists show about twenty characters.
SHORT = {
    "audio_cover_strength": "s{:.2f}",
    "guidance_scale": "g{:.1f}",
    "inference_steps": "n{}",
    "shift": "shift{:g}",
    "seed": "seed{}",
    "cfg_interval_start": "from{:g}",
    "cfg_interval_end": "to{:g}",
}


@dataclass(frozen=True)
class Setting:
    """One point of the sweep: a cover setting and a seed, its id and its name.

    varied: the parameters that differ between the settings of a job, with this setting's values.
    """

    cover: CoverSetting
    seed: int
    setting_id: str
    name: str
    varied: Mapping[str, Any]

    def values(self) -> dict[str, Any]:
        """All parameters by name, the seed included."""
        return asdict(self.cover) | {"seed": self.seed}


def make_settings(base: Mapping[str, Any], grid: Mapping[str, Any]) -> list[Setting]:
    """The cross product of ``grid`` (a value or a list for each name) over the values of ``base``.

    Raises:
        RequestError: a value is out of range, a list is empty or holds the same value twice.
    """
    axes = {name: _axis(name, values) for name, values in grid.items() if values is not None}
    settings = []
    for point in itertools.product(*axes.values()):
        values = dict(base) | dict(zip(axes, point, strict=True))
        seed = check_seed(values.pop("seed"))
        cover = parse_setting(values)
        settings.append(_setting(cover, seed, [name for name in axes if len(axes[name]) > 1]))
    return settings


def _axis(name: str, values: Any) -> list[Any]:
    if name not in (*SETTING_FIELDS, "seed"):
        parse_setting({name: values})  # raises, naming the nearest known parameter
    nested = name == "timesteps"
    listed = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else [values]
    if nested and listed and not isinstance(listed[0], Sequence):
        listed = [listed]
    if not listed:
        raise RequestError(f"grid.{name} is empty; give at least one value, or leave it out")
    seen = [json.dumps(value) for value in listed]
    twice = sorted({value for value in seen if seen.count(value) > 1})
    if twice:
        raise RequestError(f"grid.{name} lists {', '.join(twice)} twice; each value makes one setting")
    return listed


def _setting(cover: CoverSetting, seed: int, varied: list[str]) -> Setting:
    values = asdict(cover) | {"seed": seed}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
    shown = [SHORT.get(name, name + "={}").format(values[name]) for name in varied]
    name = " ".join(shown) or f"s{cover.audio_cover_strength:.2f} g{cover.guidance_scale:.1f}"
    return Setting(cover, seed, digest, name, {key: values[key] for key in varied})


def refuse_duplicates(settings: Sequence[Setting], is_turbo: bool) -> dict[str, CoverPlan]:
    """What each setting will really run, by its id.

    Raises:
        RequestError: settings would produce identical audio; the message lists them with the reason.
    """
    plans = {setting.setting_id: resolve(setting.cover, is_turbo) for setting in settings}
    same: dict[str, list[Setting]] = {}
    for setting in settings:
        key = json.dumps([plans[setting.setting_id].identity(), setting.seed])
        same.setdefault(key, []).append(setting)
    groups = [group for group in same.values() if len(group) > 1]
    if groups:
        lines = []
        for group in groups:
            plan = plans[group[0].setting_id]
            lines.append(
                f"  {' = '.join(setting.name for setting in group)}: each runs {plan.inference_steps} steps, "
                f"{plan.cover_steps} of them on the source, guidance {plan.guidance_scale:g}"
            )
            lines += [f"    {note}" for note in plan.notes]
        raise RequestError(
            "the grid holds settings that would give identical audio; remove all but one of each line:\n"
            + "\n".join(lines)
        )
    return plans
