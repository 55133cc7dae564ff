"""Stages: covers of covers (country -> rock -> heavy metal), handed over as latents without leaving the model."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from acestep.conditions import TrackConditions
from acestep.constants import INSTRUMENTAL
from acestep.cover import resolve
from acestep.errors import RequestError
from acestep.prompt import Prompt
from acestep.sampler import denoise
from acestep.setting import SETTING_FIELDS, CoverSetting, parse_setting

WORDS = ("caption", "lyrics")


@dataclass(frozen=True)
class Stage:
    """One cover of a chain: its setting, and its words where they are not the track's own (None)."""

    setting: CoverSetting
    caption: str | None = None
    lyrics: str | None = None

    def prompt(self, track: Prompt) -> Prompt:
        """The track's prompt in this stage's words."""
        caption = track.caption if self.caption is None else self.caption
        lyrics = track.lyrics if self.lyrics is None else self.lyrics or INSTRUMENTAL
        return replace(track, caption=caption, lyrics=lyrics)

    def values(self) -> dict[str, Any]:
        """The stage as plain data, which ``parse_stage`` reads back."""
        return asdict(self.setting) | {name: getattr(self, name) for name in WORDS}


def parse_stage(values: Mapping[str, Any], base: CoverSetting | None = None) -> Stage:
    """A stage from its caption, lyrics and setting parameters, laid over ``base``.

    Raises:
        RequestError: a name is unknown, a value is not usable, or a given caption is empty.
    """
    if not isinstance(values, Mapping):
        raise RequestError(f"stage {values!r} is not a mapping; write {{caption: ..., audio_cover_strength: ...}}")
    words = {name: values[name] for name in WORDS if values.get(name) is not None}
    for name, text in words.items():
        if not isinstance(text, str) or (name == "caption" and not text.strip()):
            raise RequestError(f"{name} {text!r} of a stage is not usable; give text, or leave it out")
    setting = parse_setting({k: v for k, v in values.items() if k not in WORDS}, base)
    return Stage(setting, **words)


def parse_stages(listed: Sequence[Mapping[str, Any]] | None, base: CoverSetting) -> tuple[Stage, ...]:
    """The chain that ``listed`` describes over ``base``; without one, ``base`` alone.

    Raises:
        RequestError: naming the stage, counted from 1.
    """
    if not listed:
        return (Stage(base),)
    stages = []
    for number, values in enumerate(listed, start=1):
        try:
            stages.append(parse_stage(values, base))
        except RequestError as error:
            raise RequestError(f"stage {number}: {error}") from error
    return tuple(stages)


def overridden(listed: Sequence[Mapping[str, Any]] | None) -> set[str]:
    """Names of the setting parameters that some stage fixes itself."""
    return {name for values in listed or () for name in values if name in SETTING_FIELDS}


class Chain:
    """The covers of one track, where a later stage starts from what an earlier one made.

    parents: the stages and seeds that something else starts from, whose latents are kept for it.
    """

    def __init__(self, track: TrackConditions, parents: Collection[tuple[tuple[Stage, ...], int]]):
        self.track, self.parents = track, parents
        self.kept: dict[tuple[tuple[Stage, ...], int], tuple[TrackConditions, Tensor]] = {}

    def run(self, stages: tuple[Stage, ...], seed: int) -> tuple[TrackConditions, Tensor]:
        """Conditions and latents ``[1, t, c]`` of the last of ``stages``; those before it run where needed."""
        if (stages, seed) in self.kept:
            return self.kept[stages, seed]
        prompt = stages[-1].prompt(self.track.prompt)
        if len(stages) == 1:
            conditions = replace(self.track, prompt=prompt)
        else:
            before, latents = self.run(stages[:-1], seed)
            conditions = before.restyled(latents, prompt)
        handler = conditions.handler
        plan = resolve(stages[-1].setting, handler.is_turbo)
        latents = denoise(handler.model.decoder, handler.null, [conditions.lane(plan, seed)])[0]
        if (stages, seed) in self.parents:
            self.kept[stages, seed] = conditions, latents
        return conditions, latents
