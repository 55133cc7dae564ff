"""Stages of a chain of covers (country -> rock -> heavy metal)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from acestep.constants import INSTRUMENTAL
from acestep.errors import RequestError
from acestep.language.prompt import Prompt, singing_notes
from acestep.parameters.values import unix_lines
from acestep.sampling.setting import SETTING_FIELDS, CoverSetting, parse_setting, unknown_setting

WORDS = ("caption", "lyrics")


@dataclass(frozen=True)
class Stage:
    """One cover of a chain: its setting, and its own caption and lyrics (None for the track's).

    own: names of the parameters that the stage sets itself.
    """

    setting: CoverSetting
    caption: str | None = None
    lyrics: str | None = None
    own: tuple[str, ...] = ()

    def prompt(self, track: Prompt) -> Prompt:
        """The track's prompt with this stage's caption and lyrics."""
        caption = track.caption if self.caption is None else self.caption
        lyrics = track.lyrics if self.lyrics is None else self.lyrics or INSTRUMENTAL
        return replace(track, caption=caption, lyrics=lyrics)

    def notes(self, track: Prompt) -> list[str]:
        """Notes on the stage's own caption and lyrics."""
        words = self.prompt(track)
        return [] if words == track else singing_notes(words)

    def values(self) -> dict[str, Any]:
        """The stage as plain data, the inverse of ``parse_stage``."""
        return asdict(self.setting) | {name: getattr(self, name) for name in WORDS}


def parse_stage(values: Mapping[str, Any], base: CoverSetting | None = None) -> Stage:
    """Parse a stage: caption, lyrics and setting parameters that override ``base``.

    Raises:
        RequestError: a name is unknown, a value is invalid, or a given caption is empty.
    """
    if not isinstance(values, Mapping):
        remedy = "write {caption: ..., audio_cover_strength: ...}"
        raise RequestError("wrong_type", f"{values!r} is not a mapping", remedy)
    words = {name: values[name] for name in WORDS if values.get(name) is not None}
    for name, text in words.items():
        if not isinstance(text, str) or (name == "caption" and not text.strip()):
            raise RequestError("wrong_type", "is not usable", "give text, or leave it out", name, text)
    words = {name: unix_lines(text) for name, text in words.items()}
    steering = {name: value for name, value in values.items() if name not in WORDS}
    for name in steering:
        if name == "seed":
            remedy = "set it for the whole chain"
            raise RequestError("conflict", "cannot differ between stages", remedy, "seed")
        if name not in SETTING_FIELDS:
            raise unknown_setting(name, WORDS)
    return Stage(parse_setting(steering, base), **words, own=tuple(steering))


def parse_stages(listed: Sequence[Mapping[str, Any]] | None, base: CoverSetting) -> tuple[Stage, ...]:
    """Parse a list of stages over ``base``; without a list, ``base`` is the only stage.

    Raises:
        RequestError: a stage is invalid; the message has its number, from 1.
    """
    if listed is not None and not isinstance(listed, list | tuple):
        remedy = "write [{caption: ...}, {caption: ...}]"
        raise RequestError("wrong_type", "is not a list", remedy, "stages", listed)
    stages = []
    for number, values in enumerate(listed or (), start=1):
        try:
            stages.append(parse_stage(values, base))
        except RequestError as error:
            raise error.at(f"stage {number}") from error
    return tuple(stages) or (Stage(base),)
