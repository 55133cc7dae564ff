"""The strings the text encoder reads."""

from dataclasses import dataclass, replace

from acestep.constants import (
    BPM_RANGE,
    INSTRUCTIONS,
    INSTRUMENTAL,
    KEYSCALES,
    LANGUAGES,
    MAX_CAPTION_CHARACTERS,
    MAX_LYRICS_CHARACTERS,
    TIME_SIGNATURES,
)
from acestep.errors import RequestError

DEFAULT_SECONDS = 30


@dataclass(frozen=True)
class Prompt:
    """What a request says in words: the target style, the lyrics and the musical facts.

    bpm, keyscale and timesignature may be empty (None or ""): the model then sees ``N/A``.
    ``instruction`` replaces the cover task's own instruction when it is not empty; the text branch keeps its own.
    """

    caption: str
    lyrics: str = ""
    language: str = "unknown"
    bpm: int | None = None
    keyscale: str = ""
    timesignature: str = ""
    instruction: str = ""


def text_prompt(prompt: Prompt, task: str, duration_s: float | None) -> str:
    """The prompt of one task (a key of ``INSTRUCTIONS``); ``duration_s`` is the source's length."""
    instruction = (prompt.instruction if task != "text2music" else "") or INSTRUCTIONS[task]
    if not instruction.endswith(":"):
        instruction += ":"
    return (
        f"# Instruction\n{instruction}\n\n"
        f"# Caption\n{plain_caption(prompt.caption)}\n\n"
        f"# Metas\n{metadata(prompt, duration_s)}<|endoftext|>\n"
    )


def metadata(prompt: Prompt, duration_s: float | None) -> str:
    """The four metadata lines, each ended by a newline."""
    keyscale = prompt.keyscale.strip() or "N/A"
    timesignature = prompt.timesignature.strip() or "N/A"
    seconds = DEFAULT_SECONDS if duration_s is None else int(duration_s)
    return (
        f"- bpm: {prompt.bpm or 'N/A'}\n- timesignature: {timesignature}\n"
        f"- keyscale: {keyscale}\n- duration: {seconds} seconds\n"
    )


def plain_caption(caption: str) -> str:
    """The caption itself, also when a full prompt was pasted in its place."""
    if "# Instruction" not in caption or "# Caption" not in caption:
        return caption
    return caption.split("# Caption", 1)[1].split("# Metas", 1)[0].strip()


def lyric_prompt(prompt: Prompt) -> str:
    """The lyrics with their language."""
    return f"# Languages\n{prompt.language}\n\n# Lyric\n{prompt.lyrics}<|endoftext|>"


def check_prompt(prompt: Prompt) -> tuple[Prompt, list[str]]:
    """Refuse values without a meaning; empty lyrics become ``[Instrumental]``, with a note.

    Raises:
        RequestError: naming the value and what is allowed.
    """
    notes = []
    if not prompt.caption.strip():
        raise RequestError("caption is empty: say the style to go to, such as 'heavy metal, distorted guitars'")
    if prompt.language not in LANGUAGES:
        raise RequestError(f"language {prompt.language!r} is unknown; use one of {', '.join(sorted(LANGUAGES))}")
    low, high = BPM_RANGE
    if prompt.bpm is not None and not low <= prompt.bpm <= high:
        raise RequestError(f"bpm {prompt.bpm} is out of range; allowed: {low}..{high}, or leave it out")
    if prompt.keyscale.strip() and prompt.keyscale.strip() not in KEYSCALES:
        raise RequestError(f"keyscale {prompt.keyscale!r} is unknown; write it as 'F# minor' or 'Bb major'")
    if prompt.timesignature.strip() and prompt.timesignature.strip() not in TIME_SIGNATURES:
        raise RequestError(
            f"timesignature {prompt.timesignature!r} is unknown; use one of {', '.join(TIME_SIGNATURES)}"
        )
    if len(prompt.caption) > MAX_CAPTION_CHARACTERS:
        notes.append(
            f"caption has {len(prompt.caption)} characters; the model knows fewer than {MAX_CAPTION_CHARACTERS}"
        )
    if len(prompt.lyrics) > MAX_LYRICS_CHARACTERS:
        notes.append(
            f"lyrics have {len(prompt.lyrics)} characters; the model knows fewer than {MAX_LYRICS_CHARACTERS}"
        )
    if not prompt.lyrics.strip():
        notes.append(f"lyrics are empty: {INSTRUMENTAL} is used")
        prompt = replace(prompt, lyrics=INSTRUMENTAL)
    return prompt, notes
