"""Stages: covers of covers (country -> rock -> heavy metal), handed over as latents without leaving the model."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from acestep.conditions import TrackConditions
from acestep.constants import INSTRUMENTAL
from acestep.cover import resolve
from acestep.errors import GenerationError, RequestError
from acestep.prompt import Prompt
from acestep.rendering import render
from acestep.sampler import denoise
from acestep.setting import SETTING_FIELDS, CoverSetting, parse_setting, unknown_setting

WORDS = ("caption", "lyrics")


@dataclass(frozen=True)
class Stage:
    """One cover of a chain: its setting, and its words where they are not the track's own (None).

    own: names of the parameters that the stage sets itself.
    """

    setting: CoverSetting
    caption: str | None = None
    lyrics: str | None = None
    own: tuple[str, ...] = ()

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
        raise RequestError(f"{values!r} is not a mapping; write {{caption: ..., audio_cover_strength: ...}}")
    words = {name: values[name] for name in WORDS if values.get(name) is not None}
    for name, text in words.items():
        if not isinstance(text, str) or (name == "caption" and not text.strip()):
            raise RequestError(f"{name} {text!r} is not usable; give text, or leave it out")
    steering = {name: value for name, value in values.items() if name not in WORDS}
    for name in steering:
        if name == "seed":
            raise RequestError("seed cannot differ between stages; set it for the whole chain")
        if name not in SETTING_FIELDS:
            raise RequestError(unknown_setting(name, WORDS))
    return Stage(parse_setting(steering, base), **words, own=tuple(steering))


def parse_stages(listed: Sequence[Mapping[str, Any]] | None, base: CoverSetting) -> tuple[Stage, ...]:
    """The chain that ``listed`` describes over ``base``; without one, ``base`` alone.

    Raises:
        RequestError: naming the stage, counted from 1.
    """
    if listed is not None and not isinstance(listed, list | tuple):
        raise RequestError(f"stages {listed!r} is not a list; write [{{caption: ...}}, {{caption: ...}}]")
    stages = []
    for number, values in enumerate(listed or (), start=1):
        try:
            stages.append(parse_stage(values, base))
        except RequestError as error:
            raise RequestError(f"stage {number}: {error}") from error
    return tuple(stages) or (Stage(base),)


@dataclass(frozen=True)
class Cover:
    """What one stage made: latents ``[1, t, c]``, waveform ``[2, n]`` (not yet limited), seconds of work."""

    conditions: TrackConditions
    latents: Tensor
    wave: Tensor
    denoise_s: float
    decode_s: float


class Chain:
    """The covers of one track, where a later stage starts from what an earlier one made.

    chains: what will be run, by stages and seed. What a later one of them starts from is kept until it has.
    adjust: applied to latents before they are decoded.
    """

    def __init__(
        self,
        track: TrackConditions,
        chains: Iterable[tuple[tuple[Stage, ...], int]],
        adjust: Callable[[Tensor], Tensor] = lambda latents: latents,
    ):
        self.track, self.adjust = track, adjust
        self.waiting = Counter((stages[:-1], seed) for stages, seed in chains)
        self.kept: dict[tuple[tuple[Stage, ...], int], Cover] = {}

    def run(
        self, stages: tuple[Stage, ...], seed: int, on_step: Callable[[int, int], None] | None = None
    ) -> Cover:
        """The cover of the last of ``stages``; those before it run where they are not kept.

        Raises:
            GenerationError: what came out cannot be used, or what it would start from cannot.
            RequestError: see ``TrackConditions.lane``.
        """
        key = (stages, seed)
        if key not in self.kept:
            cover = self._make(self._conditions(stages, seed, on_step), stages[-1], seed, on_step)
            if not self.waiting[key]:
                return cover
            self.kept[key] = cover
        return self.kept[key]

    def _conditions(
        self, stages: tuple[Stage, ...], seed: int, on_step: Callable[[int, int], None] | None
    ) -> TrackConditions:
        prompt = stages[-1].prompt(self.track.prompt)
        if len(stages) == 1:
            return replace(self.track, prompt=prompt)
        before = stages[:-1]
        try:
            source = self.run(before, seed, on_step)
        except GenerationError as error:
            raise GenerationError(f"stage {len(before)}, its source, failed: {error}", "parent_failed") from error
        self.waiting[before, seed] -= 1
        if self.waiting[before, seed] <= 0:
            self.kept.pop((before, seed), None)
        return source.conditions.restyled(source.latents, source.wave.square().mean().sqrt().item(), prompt)

    def _make(
        self,
        conditions: TrackConditions,
        stage: Stage,
        seed: int,
        on_step: Callable[[int, int], None] | None,
    ) -> Cover:
        handler = conditions.handler
        plan = resolve(stage.setting, handler.is_turbo)
        started = time.perf_counter()
        lane = conditions.lane(plan, seed)
        latents = denoise(handler.model.decoder, handler.null, [lane], on_step)[0]
        handler.synchronize()
        denoised = time.perf_counter()
        wave = render(handler, self.adjust(latents), plan, conditions)
        return Cover(conditions, latents, wave, denoised - started, time.perf_counter() - denoised)
