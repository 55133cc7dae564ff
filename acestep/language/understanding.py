"""Prompts and answers of the 5 Hz language model.

The prompt holds a track's audio codes (tokenizer indices, five per second). The answer is a think block of
``name: value`` lines, optionally followed by lyrics::

    <think>
    bpm: 73
    caption: A calm piano melody.
      It slowly builds.
    duration: 273
    keyscale: G major
    language: en
    timesignature: 4
    </think>

    # Lyric
    [Verse 1]
"""

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from acestep.constants import BPM_RANGE, LANGUAGES, TIME_SIGNATURES
from acestep.language.prompt import Prompt, read_keyscale, read_language
from acestep.parameters.values import from_json

THINK, END_THINK = "<think>", "</think>"
START_TURN, END_TURN = "<|im_start|>", "<|im_end|>"
AUDIO_CODE = "<|audio_code_{}|>"
DURATION_RANGE = (10, 600)  # seconds
FIELDS = ("bpm", "caption", "duration", "genres", "keyscale", "language", "timesignature")
UNDERSTAND = "Understand the given musical conditions and describe the audio semantics accordingly:"

_AUDIO_CODE = re.compile(r"<\|audio_code_\d+\|>")
_WHOLE_NUMBERS = ("bpm", "duration")
_NO_VALUE = ("", "N/A")


@dataclass(frozen=True)
class Understanding:
    """Parsed answer; None or "" for missing and unusable fields.

    Attributes:
        bpm: beats per minute.
        duration: seconds.
        timesignature: beats per bar, "4" for "4/4".
        unusable: invalid values as (field, value).
    """

    caption: str = ""
    lyrics: str = ""
    bpm: int | None = None
    duration: int | None = None
    keyscale: str = ""
    language: str = ""
    timesignature: str = ""
    unusable: tuple[tuple[str, str], ...] = ()


def codes_text(indices: Iterable[int]) -> str:
    """Format audio codes, such as ``<|audio_code_7|><|audio_code_0|>``."""
    return "".join(AUDIO_CODE.format(index) for index in indices)


def chat_prompt(system: str, user: str) -> str:
    """Qwen chat prompt with a system and a user turn."""
    turns = "".join(f"{START_TURN}{who}\n{said}{END_TURN}\n" for who, said in (("system", system), ("user", user)))
    return f"{turns}{START_TURN}assistant\n"


def understanding_prompt(indices: Iterable[int]) -> str:
    return chat_prompt(f"# Instruction\n{UNDERSTAND}\n\n", codes_text(indices))


def parse_output(text: str) -> tuple[dict[str, Any], str]:
    """Parse an answer into metadata and audio codes.

    Metadata are the known fields of the think block, or of the text before the first code if the tags are missing:
    lines ``name: value``, or one JSON object. Names may have any case, Markdown or quotes (``- **BPM**: 120``).
    Indented lines continue a field, joined by spaces. bpm and duration become integers if possible; other values
    are stripped strings.
    """
    block = re.sub(r"^```\w*\s*$", "", _think_block(text), flags=re.MULTILINE)
    metadata = _from_json(block) or _from_lines(block)
    for name in _WHOLE_NUMBERS:
        if name in metadata:
            metadata[name] = _number(metadata[name])
    return metadata, "".join(_AUDIO_CODE.findall(text))


def _from_lines(block: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    name = ""
    # A leading brace belongs to a truncated JSON object.
    for line in textwrap.dedent(re.sub(r"\A\s*\{|\A\n+", "", block).strip("\n")).split("\n"):
        if not line.strip():
            continue
        if line[0].isspace():
            if name:
                metadata[name] = f"{metadata[name]} {line.strip()}".lstrip()
            continue
        key, *value = re.split("[:\uff1a]", line, maxsplit=1)
        name = _field(key) if value else ""
        if name:
            metadata[name] = _bare(value[0])
    return metadata


def _from_json(block: str) -> dict[str, Any]:
    """The fields of a block that is a JSON object, else {}."""
    try:
        content = from_json(block)
    except ValueError:
        return {}
    known = {_field(key): value for key, value in content.items()} if isinstance(content, dict) else {}
    return {name: _text(value) for name, value in known.items() if name}


def _text(value: Any) -> str:
    """A JSON value as text: whole floats without decimals, lists comma-separated."""
    if isinstance(value, list):
        return ", ".join(filter(None, map(_text, value)))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()


def _field(key: str) -> str:
    """The field of a key, ignoring case, spaces, quotes and Markdown; "" if unknown."""
    name = re.sub(r"^\d+[.)]|[\W_]", "", key.strip().casefold())
    return name if name in FIELDS else ""


def _bare(value: str) -> str:
    """A value without Markdown and surrounding quotes."""
    value = value.strip().removesuffix(",").strip("*` ")
    quote = value[:1]
    if quote in ("'", '"') and value.find(quote, 1) == len(value) - 1:
        return value[1:-1].strip()
    return value


def _think_block(text: str) -> str:
    body = text.split(THINK, 1)[-1]
    if END_THINK in body:
        return body.split(END_THINK, 1)[0]
    return _AUDIO_CODE.split(body, maxsplit=1)[0]


def lyrics_of(text: str) -> str:
    """The lyrics after the think block, without header; "" if the block is not closed."""
    lyrics = text.partition(END_THINK)[2].strip().removesuffix(END_TURN).strip()
    return re.sub(r"\A# Lyrics?[ \t]*(\n|\Z)", "", lyrics).strip()


def understanding_of(text: str) -> Understanding:
    """Parse and validate an answer."""
    metadata, _ = parse_output(text)
    usable: dict[str, Any] = {}
    unusable = []
    for name in ("bpm", "duration", "keyscale", "language", "timesignature"):
        said = str(metadata.get(name, "")).strip("'\"")  # YAML puts the language no in quotes
        if said in _NO_VALUE:
            continue
        value = _usable(name, said)
        if value is None:
            unusable.append((name, said))
        else:
            usable[name] = value
    return Understanding(
        caption=metadata.get("caption", ""), lyrics=lyrics_of(text), unusable=tuple(unusable), **usable
    )


def fill_prompt(
    prompt: Prompt, found: Understanding, use_metas: bool = True, use_language: bool = True
) -> tuple[Prompt, list[str]]:
    """Fill missing fields of a prompt from the language model's answer.

    Caption, lyrics and duration are never changed: the caption is the target style, not the source's.

    Args:
        use_metas: fill bpm, keyscale and timesignature.
        use_language: fill the language if it is "unknown".

    Returns:
        The prompt, and a note for each filled or invalid value.
    """
    is_open = {
        "bpm": use_metas and prompt.bpm is None,
        "keyscale": use_metas and not prompt.keyscale.strip(),
        "timesignature": use_metas and not prompt.timesignature.strip(),
        "language": use_language and prompt.language == "unknown",
    }
    said = dict(found.unusable)
    filled: dict[str, Any] = {}
    notes = []
    for name in (name for name, missing in is_open.items() if missing):
        value = getattr(found, name) or said.get(name, "")
        if value in _NO_VALUE or (name, value) == ("language", "unknown"):
            continue
        usable = _usable(name, str(value))
        if usable is None:
            notes.append(f"{name} {value!r} of the language model was ignored: it is not one the models know")
        else:
            filled[name] = usable
            notes.append(f"{name} {usable} was found by the language model")
    return replace(prompt, **filled), notes


def _usable(name: str, said: str) -> int | str | None:
    """Parse a field; None if it is invalid or out of range."""
    if name in _WHOLE_NUMBERS:
        low, high = BPM_RANGE if name == "bpm" else DURATION_RANGE
        number = _number(said)
        return number if isinstance(number, int) and low <= number <= high else None
    if name == "keyscale":
        return read_keyscale(said)
    value, known = (_beats(said), TIME_SIGNATURES) if name == "timesignature" else (read_language(said), LANGUAGES)
    return value if value in known else None


def _beats(timesignature: str) -> str:
    """Beats per bar: "4" for "4/4" and for "4"."""
    return re.sub(r"/\s*\d+\s*\Z", "", timesignature).strip()


def _number(value: Any) -> Any:
    """The value as an integer if possible, else unchanged."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return value
