"""Reading answers of the language model, writing its texts, and filling requests from what it found."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from acestep.language.prompt import Prompt, check_prompt
from acestep.language.understanding import (
    Understanding,
    codes_text,
    fill_prompt,
    lyrics_of,
    parse_output,
    understanding_of,
    understanding_prompt,
)
from tests.acestep.language.think_block import cot_text

ANSWER = """<think>
bpm: 73
caption: A calm piano melody:
  it slowly builds
    to a storm.
duration: 273
genres: folk
keyscale: F♯ minor
language: zh
timesignature: 4/4
</think>

# Lyric
[Verse 1]
bpm: 99 is my tempo

goodbye
<|im_end|>"""
FOUND = Understanding("A calm piano", "la la", 73, 273, "G major", "de", "3")
OPEN = Prompt("heavy metal")


def test_prompt_asks_in_the_chat_form() -> None:
    assert codes_text((7, 0)) == "<|audio_code_7|><|audio_code_0|>"
    assert codes_text(()) == ""
    assert understanding_prompt([7, 63999]) == (
        "<|im_start|>system\n# Instruction\n"
        "Understand the given musical conditions and describe the audio semantics accordingly:\n\n<|im_end|>\n"
        "<|im_start|>user\n<|audio_code_7|><|audio_code_63999|><|im_end|>\n<|im_start|>assistant\n"
    )


def test_whole_answer() -> None:
    metadata, codes = parse_output(ANSWER)
    assert metadata == {
        "bpm": 73,
        "caption": "A calm piano melody: it slowly builds to a storm.",
        "duration": 273,
        "genres": "folk",
        "keyscale": "F♯ minor",
        "language": "zh",
        "timesignature": "4/4",
    }
    assert codes == ""
    assert lyrics_of(ANSWER) == "[Verse 1]\nbpm: 99 is my tempo\n\ngoodbye"
    assert understanding_of(ANSWER) == Understanding(
        "A calm piano melody: it slowly builds to a storm.",
        "[Verse 1]\nbpm: 99 is my tempo\n\ngoodbye",
        73,
        273,
        "F♯ minor",
        "zh",
        "4",
    )


@pytest.mark.parametrize(
    ("text", "metadata", "codes", "lyrics"),
    [
        ("", {}, "", ""),
        ("<think>\n</think>", {}, "", ""),
        ("<think>\nbpm: 90\nduration: 1", {"bpm": 90, "duration": 1}, "", ""),  # broken off
        ("bpm: 90\n</think>\n# Lyric\nla", {"bpm": 90}, "", "la"),  # the opening tag was part of the prompt
        ("<think>\nbpm: \nlanguage:en\n</think>", {"bpm": "", "language": "en"}, "", ""),
        (
            "bpm: 9\n<|audio_code_1|>\nbpm: 8 <|audio_code_22|>",
            {"bpm": 9},
            "<|audio_code_1|><|audio_code_22|>",
            "",
        ),
        ("<think>\ncaption:\n  below\n\n  more\n</think>x", {"caption": "below more"}, "", "x"),
        ("<think>\nmood: sad\n  and lost\nbpm: 60\n</think>", {"bpm": 60}, "", ""),
        ("<think>\nbpm: 60\nmood: sad\n  and lost\n</think>", {"bpm": 60}, "", ""),
        ("<think>\ncaption: a\u2028b\n</think>\n# Lyrical text", {"caption": "a\u2028b"}, "", "# Lyrical text"),
        ("<think>\nbpm: 1.5\n</think>\n\n# Lyric\n<|im_end|>", {"bpm": "1.5"}, "", ""),
    ],
)
def test_answers_of_every_shape(text: str, metadata: dict, codes: str, lyrics: str) -> None:
    assert parse_output(text) == (metadata, codes)
    assert lyrics_of(text) == lyrics


FIVE = {"bpm": 120, "caption": "calm: piano", "keyscale": "C major", "language": "en", "timesignature": "4/4"}


@pytest.mark.parametrize(
    "line",
    [
        "{}: {}",
        "**{}**: {}",
        "**{}:** {}",
        "- {}: {}",
        "* **{}**: **{}**",
        "\u2022 {}: {}",
        "3. {}: {}",
        "> {}: {}",
        "### {}: {}",
        '"{}": "{}"',
        "'{}': '{}'",
        "`{}`: `{}`",
        "{}\uff1a{}",
        "{} : {}\r",
        "  {}: {}",
        "{}: {}\n    ",
    ],
)
@pytest.mark.parametrize("case", [str.lower, str.upper, str.title])
def test_names_are_read_however_they_are_written(line: str, case: Callable[[str], str]) -> None:
    spelled = {name.replace("timesignature", "time_signature"): value for name, value in FIVE.items()}
    for names in (list(spelled), list(reversed(spelled))):
        lines = "\n".join(line.format(case(name), spelled[name]) for name in names)
        assert parse_output(f"<think>\n{lines}\n</think>")[0] == FIVE
        assert parse_output(f"```yaml\n{lines}\n```\n<|audio_code_3|>") == (FIVE, "<|audio_code_3|>")


@pytest.mark.parametrize("frame", ["{}", "```json\n{}\n```", "\n\n{}\n"])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_answer_in_json(frame: str, indent: int | None) -> None:
    said = {name.title(): value for name, value in FIVE.items()} | {"mood": ["calm"], "genres": None}
    answer = frame.format(json.dumps(said, indent=indent))
    assert parse_output(f"<think>{answer}</think>")[0] == FIVE | {"genres": ""}
    if indent:
        broken_off = answer[: answer.index('"mood"')]
        assert parse_output(f"<think>{broken_off}")[0] == FIVE
    for other in ("[1]", "null", '"bpm"', "{"):
        assert parse_output(f"<think>{other}</think>")[0] == {}


def test_values_of_json_that_are_no_strings() -> None:
    said = {"bpm": 120.0, "duration": 1e2, "genres": ["folk", None, "rock"], "caption": [], "timesignature": 4.0}
    wanted = {"bpm": 120, "duration": 100, "genres": "folk, rock", "caption": "", "timesignature": "4"}
    assert parse_output(f"<think>{json.dumps(said)}</think>")[0] == wanted
    assert parse_output('{"bpm": 120.5, "duration": Infinity}')[0] == {"bpm": "120.5", "duration": "inf"}
    found = understanding_of(f"<think>{json.dumps(said)}</think>")
    assert (found.bpm, found.duration, found.timesignature) == (120, 100, "4")


def test_words_of_a_caption_are_no_names() -> None:
    said = 'caption: "Blue" and "Red": slow\n  bpm: 99, they said\nThe tempo: fast\nbpm 100\nbpm = 101'
    assert parse_output(f"<think>\n{said}\n</think>")[0] == {
        "caption": '"Blue" and "Red": slow bpm: 99, they said'
    }


def test_think_block_of_metadata() -> None:
    said = {
        "timesignature": "6/8",
        "language": "no",
        "bpm": "120",
        "caption": "1999",
        "duration": 30.0,
        "genres": None,
    }
    assert cot_text(said) == (
        "<think>\nbpm: 120\ncaption: '1999'\nduration: 30\nlanguage: 'no'\ntimesignature: 6\n</think>"
    )
    assert cot_text({"caption": "舞曲 ♭: x"}) == "<think>\ncaption: '舞曲 ♭: x'\n</think>"
    assert cot_text({"genres": None}) == cot_text({}) == "<think>\n\n</think>"
    assert understanding_of(cot_text(said)).language == "no"


@pytest.mark.parametrize(
    ("field", "said", "usable"),
    [
        *(("bpm", value, int(value)) for value in ("30", "300")),
        *(("bpm", value, None) for value in ("29", "301", "-90", "fast", "90.5", "120 BPM")),
        *(("duration", value, int(value)) for value in ("10", "600")),
        *(("duration", value, None) for value in ("9", "601", "12s")),
        *(("keyscale", value, value) for value in ("C major", "B♭ minor", "Eb minor", "F# major")),
        ("keyscale", "c Major", "C major"),
        *(("keyscale", value, None) for value in ("C", "H major")),
        *(("language", value, value) for value in ("en", "yue", "unknown")),
        ("language", "EN", "en"),
        ("language", "zh-CN", "zh"),
        *(("language", value, None) for value in ("xx", "English")),
        *(("timesignature", value, value[0]) for value in ("2", "3/4", "4/4", "6", "6/8")),
        *(("timesignature", value, None) for value in ("5", "7/8", "four", "44")),
    ],
)
def test_values_in_and_out_of_range(field: str, said: str, usable: int | str | None) -> None:
    found = understanding_of(f"<think>\n{field}: {said}\n</think>")
    empty = getattr(Understanding(), field)
    assert getattr(found, field) == (empty if usable is None else usable)
    assert found.unusable == (((field, said),) if usable is None else ())
    if field == "duration":
        assert fill_prompt(OPEN, found) == (OPEN, [])
        return
    prompt, notes = fill_prompt(OPEN, found)
    if said == "unknown":
        assert (prompt, notes) == (OPEN, [])
    elif usable is None:
        assert prompt == OPEN
        assert len(notes) == 1
        assert notes[0].startswith(f"{field} {said!r} of the language model was ignored")
    else:
        assert prompt == replace(OPEN, **{field: usable})
        assert notes == [f"{field} {usable} was found by the language model"]
        check_prompt(prompt)


@pytest.mark.parametrize("field", ["bpm", "duration", "keyscale", "language", "timesignature"])
@pytest.mark.parametrize("said", ["N/A", "", "'N/A'"])
def test_no_value_is_nothing_found(field: str, said: str) -> None:
    found = understanding_of(f"<think>\n{field}: {said}\n</think>")
    assert found == Understanding()
    assert fill_prompt(OPEN, found) == (OPEN, [])


def test_all_that_was_left_open_is_filled_and_nothing_else() -> None:
    filled, notes = fill_prompt(OPEN, FOUND)
    assert filled == Prompt("heavy metal", "", "de", 73, "G major", "3")
    assert notes == [
        "bpm 73 was found by the language model",
        "keyscale G major was found by the language model",
        "timesignature 3 was found by the language model",
        "language de was found by the language model",
    ]
    assert fill_prompt(replace(OPEN, keyscale="  ", timesignature=" "), FOUND)[0] == filled
    given = Prompt("jazz", "words", "fr", 100, "A minor", "6", "do it")
    assert fill_prompt(given, FOUND) == (given, [])
    assert fill_prompt(given, Understanding(unusable=(("bpm", "fast"),))) == (given, [])


def test_what_may_be_filled() -> None:
    assert fill_prompt(OPEN, FOUND, use_metas=False)[0] == replace(OPEN, language="de")
    assert fill_prompt(OPEN, FOUND, use_language=False)[0] == replace(
        OPEN, bpm=73, keyscale="G major", timesignature="3"
    )
    wrong = Understanding(unusable=(("bpm", "fast"), ("language", "xx")))
    assert fill_prompt(OPEN, wrong, use_metas=False, use_language=False) == (OPEN, [])
    assert len(fill_prompt(OPEN, wrong)[1]) == 2


def test_values_made_by_hand_are_checked_too() -> None:
    prompt, notes = fill_prompt(
        OPEN, Understanding(bpm=301, keyscale="H major", language="xx", timesignature="4/4")
    )
    assert prompt == replace(OPEN, timesignature="4")
    assert [note.split(" of the")[0] for note in notes if "ignored" in note] == [
        "bpm 301",
        "keyscale 'H major'",
        "language 'xx'",
    ]
