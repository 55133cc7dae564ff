"""Prompts: validation, and formatting for the text encoder."""

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
from acestep.language.vocals import asks_for_singing
from acestep.parameters.declaration import Parameter
from acestep.parameters.values import unix_lines

DEFAULT_SECONDS = 30
_KEYS = {"": ""} | {key.casefold(): key for key in KEYSCALES}
_NULL_WORDS = ("null", "none", "na", "n/a", "undefined", "\\n")
_FRACTIONS = {"2/4": "2", "3/4": "3", "4/4": "4", "6/8": "6"}
_PROOF = "tests/acestep/test_inference.py::test_bad_requests_name_the_value"
# The words of a track, in a manifest, a request and a result row.
WORDS = {
    "caption": Parameter(
        "The style to go to: genre, instruments, mood, production.",
        proof="tests/acestep/test_inference.py::test_every_supported_parameter_reaches_the_audio",
    ),
    "lyrics": Parameter(
        f"What is sung; empty means {INSTRUMENTAL}.",
        proof="tests/acestep/test_inference.py::test_instrumental_and_empty_lyrics_are_the_same_request",
    ),
    "language": Parameter("Language of the lyrics, such as `en`; `unknown` leaves it open.", proof=_PROOF),
    "bpm": Parameter("Tempo; null leaves it open.", range=BPM_RANGE, unit="beats per minute", proof=_PROOF),
    "keyscale": Parameter("Key, such as `F# minor`; empty leaves it open.", proof=_PROOF),
    "timesignature": Parameter(
        f"Beats of a bar: {', '.join(TIME_SIGNATURES)}; empty leaves it open.", proof=_PROOF
    ),
}


@dataclass(frozen=True)
class Prompt:
    """Target style, lyrics and musical facts of a request.

    bpm, keyscale and timesignature may be empty (None or ""), which the model reads as ``N/A``. A non-empty
    ``instruction`` replaces the instruction of the cover task; the text branch keeps its own.
    """

    caption: str
    lyrics: str = ""
    language: str = "unknown"
    bpm: int | None = None
    keyscale: str = ""
    timesignature: str = ""
    instruction: str = ""


def text_prompt(prompt: Prompt, task: str, duration_s: float | None) -> str:
    """Format the prompt of one task (a key of ``INSTRUCTIONS``); ``duration_s`` is the source's duration."""
    instruction = (prompt.instruction if task != "text2music" else "") or INSTRUCTIONS[task]
    if not instruction.endswith(":"):
        instruction += ":"
    return (
        f"# Instruction\n{instruction}\n\n"
        f"# Caption\n{plain_caption(prompt.caption)}\n\n"
        f"# Metas\n{metadata(prompt, duration_s)}<|endoftext|>\n"
    )


def metadata(prompt: Prompt, duration_s: float | None) -> str:
    """Format the four metadata lines."""
    keyscale = prompt.keyscale.strip() or "N/A"
    timesignature = prompt.timesignature.strip() or "N/A"
    seconds = DEFAULT_SECONDS if duration_s is None else int(duration_s)
    return (
        f"- bpm: {prompt.bpm or 'N/A'}\n- timesignature: {timesignature}\n"
        f"- keyscale: {keyscale}\n- duration: {seconds} seconds\n"
    )


def plain_caption(caption: str) -> str:
    """Extract the caption if a full prompt was given instead."""
    if "# Instruction" not in caption or "# Caption" not in caption:
        return caption
    return caption.split("# Caption", 1)[1].split("# Metas", 1)[0].strip()


def lyric_prompt(prompt: Prompt) -> str:
    """Format lyrics with their language."""
    return f"# Languages\n{prompt.language}\n\n# Lyric\n{prompt.lyrics}<|endoftext|>"


def check_prompt(prompt: Prompt) -> tuple[Prompt, list[str]]:
    """Validate and normalize a prompt; return it with notes.

    Line ends become LF, ``zh-CN`` the language ``zh``, ``4/4`` the time signature ``4``, ``c Major`` the key
    ``C major``, empty lyrics ``[Instrumental]``, so that equivalent requests are equal.

    Raises:
        RequestError: a value is not allowed.
    """
    notes = []
    if not prompt.caption.strip():
        remedy = "say the style to go to, such as 'heavy metal, distorted guitars'"
        raise RequestError("empty_caption", "", remedy, "caption")
    language = read_language(prompt.language)
    if language not in LANGUAGES:
        raise RequestError("unknown_value", "", "", "language", prompt.language, allowed=sorted(LANGUAGES))
    if language != prompt.language.strip().lower() and prompt.language.strip():
        notes.append(f"language {prompt.language!r} is taken as {language!r}")
    low, high = BPM_RANGE
    if prompt.bpm is not None and not low <= prompt.bpm <= high:
        allowed = f"{low}..{high}, or leave it out"
        raise RequestError("out_of_range", field="bpm", value=prompt.bpm, allowed=allowed)
    keyscale = read_keyscale(prompt.keyscale)
    if keyscale is None:
        remedy = "write it as 'F# minor' or 'Bb major'"
        raise RequestError("unknown_value", "", remedy, "keyscale", prompt.keyscale)
    timesignature = prompt.timesignature.replace(" ", "").removesuffix(".0")
    timesignature = _FRACTIONS.get(timesignature, timesignature)
    if timesignature and timesignature not in TIME_SIGNATURES:
        remedy = f"use one of {', '.join(TIME_SIGNATURES)} ({', '.join(_FRACTIONS)})"
        raise RequestError("unknown_value", "", remedy, "timesignature", prompt.timesignature)
    prompt = replace(
        prompt,
        caption=unix_lines(prompt.caption),
        lyrics=unix_lines(prompt.lyrics),
        language=language,
        keyscale=keyscale,
        timesignature=timesignature,
    )
    if len(prompt.caption) > MAX_CAPTION_CHARACTERS:
        notes.append(
            f"caption has {len(prompt.caption)} characters; the model knows fewer than {MAX_CAPTION_CHARACTERS}"
        )
    if len(prompt.lyrics) > MAX_LYRICS_CHARACTERS:
        notes.append(
            f"lyrics have {len(prompt.lyrics)} characters; the model knows fewer than {MAX_LYRICS_CHARACTERS}"
        )
    for name, text in (("caption", prompt.caption), ("lyrics", prompt.lyrics)):
        if text.strip().casefold() in _NULL_WORDS:
            notes.append(f"{name} is the word {text!r}, which programs write where there is nothing")
    if not prompt.lyrics.strip():
        notes.append(f"lyrics are empty: {INSTRUMENTAL} is used")
        prompt = replace(prompt, lyrics=INSTRUMENTAL)
    return prompt, notes + singing_notes(prompt)


def singing_notes(prompt: Prompt) -> list[str]:
    """A note if a caption asks for singing and there are no lyrics."""
    instrumental = prompt.lyrics.strip().casefold() in ("", INSTRUMENTAL.casefold())
    asked = asks_for_singing(plain_caption(prompt.caption)) if instrumental else ""
    if not asked:
        return []
    return [
        f"the caption asks for singing ({asked!r}) and there are no words to sing: give lyrics, or leave the "
        "voice out of the caption"
    ]


def read_keyscale(written: str) -> str | None:
    """Normalize a key, ignoring case; "" if empty, None if unknown."""
    return _KEYS.get(written.strip().casefold())


def read_language(written: str) -> str:
    """The primary subtag of a language tag in lower case (``zh`` of ``zh-CN``); "unknown" if empty."""
    return written.strip().lower().replace("_", "-").split("-")[0] or "unknown"
