"""Presets: starting settings for a change of genre, by name or by a manifest row's genre pair."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from acestep.errors import RequestError
from acestep.sampling.setting import parse_setting, parse_values


@dataclass(frozen=True)
class Preset:
    """Starting settings for one genre pair.

    caption: target style, for rows without a caption.
    cover: values of setting parameters.
    ranges: recommended [lowest, highest] value of some parameters.
    """

    name: str
    source_genre: str
    target_genre: str
    caption: str
    cover: Mapping[str, Any]
    ranges: Mapping[str, Sequence[float]] = field(default_factory=dict)


def check_preset(preset: Preset) -> Preset:
    """Validate a preset.

    Raises:
        RequestError: a value is out of range, or a range does not contain the preset's value.
    """
    try:
        parse_setting(preset.cover)
        for name, bounds in preset.ranges.items():
            if not isinstance(bounds, Sequence) or len(bounds) != 2:
                remedy = "write [lowest, highest]"
                raise RequestError("invalid_value", f"the range of {name} is {bounds!r}", remedy)
            low, high = (parse_values({name: bound})[name] for bound in bounds)
            if name in preset.cover and not low <= preset.cover[name] <= high:
                reason = f"is outside its own range {low:g}..{high:g}"
                raise RequestError("out_of_range", reason, field=name, value=preset.cover[name])
    except RequestError as error:
        raise error.at(f"preset {preset.name!r}") from error
    if not preset.caption.strip():
        raise RequestError("missing_value", f"preset {preset.name!r} has no caption")
    return preset


def for_genres(presets: Iterable[Preset], source_genre: str, target_genre: str) -> Preset:
    """Find the preset of a genre pair, ignoring case and punctuation.

    Raises:
        RequestError: there is none.
    """
    known = {(_plain(preset.source_genre), _plain(preset.target_genre)): preset for preset in presets}
    found = known.get((_plain(source_genre), _plain(target_genre)))
    if found is None:
        pairs = ", ".join(f"{p.source_genre} -> {p.target_genre}" for p in known.values()) or "none"
        remedy = f"known: {pairs}. Use one of these, add a file to conf/preset, or leave both columns empty"
        raise RequestError("invalid_value", f"no preset goes from {source_genre!r} to {target_genre!r}", remedy)
    return found


def _plain(genre: str) -> str:
    return "".join(c for c in genre.casefold() if c.isalnum())


def unset(preset: Preset, taken: Iterable[str]) -> dict[str, Any]:
    """The preset's values of parameters that are not in ``taken``."""
    return {name: value for name, value in preset.cover.items() if name not in set(taken)}
