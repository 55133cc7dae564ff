"""Values are read by the same rules whoever gives them."""

from datetime import datetime
from decimal import Decimal

import numpy as np
import pytest

from acestep.errors import RequestError
from acestep.generation.stages import parse_stage
from acestep.language.prompt import Prompt, check_prompt
from acestep.parameters.values import MAX_LEVELS, as_number, as_text, as_whole_number, from_json, is_empty
from tests.refusals import raises

NAN = float("nan")


@pytest.mark.parametrize("value", [None, NAN, np.float32("nan"), Decimal("NaN"), "", " \t"])
def test_empty(value: object) -> None:
    assert is_empty(value)


@pytest.mark.parametrize("value", [0, 0.0, False, [], {}, b"", "NaN", "null", datetime(2026, 1, 1)])
def test_not_empty(value: object) -> None:
    assert not is_empty(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("7.0", "7.0"),
        (7, "7"),
        (7.0, "7"),
        (7.5, "7.5"),
        (Decimal("7.00"), "7"),
        (np.int64(7), "7"),
        (np.float32(7), "7"),
        (143349558619761320, "143349558619761320"),
        (Decimal(143349558619761320), "143349558619761320"),
        (Decimal("9007199254740993.5"), "9007199254740993.5"),
        (np.float32(7.1), "7.1"),
        (np.float32(2**24 - 1), "16777215"),
    ],
)
def test_text(value: object, text: str) -> None:
    assert as_text("caption", value) == text


@pytest.mark.parametrize(
    "value",
    [
        True,
        np.True_,
        [1],
        {"a": 1},
        b"rock",
        (1,),
        datetime(2026, 4, 4),
        1e300,
        np.float32(2**24),
        np.float16(2**11),
        np.float64(2**53),
        float("inf"),
        "\ud800",
        "a\0",
        "#REF!",
    ],
)
def test_not_text(value: object) -> None:
    with pytest.raises(RequestError) as raised:
        as_text("caption", value)
    assert (raised.value.field, raised.value.kind in ("not_text", "garbled_text", "lost_digits")) == (
        "caption",
        True,
    )


@pytest.mark.parametrize("value", [108, 108.0, "108", " 108.0 ", Decimal(108), np.int32(108)])
def test_whole_numbers(value: object) -> None:
    assert as_whole_number("bpm", value) == 108


@pytest.mark.parametrize(
    "value",
    [
        *(True, b"108", 108.5, "fast", [108], float("inf"), NAN, None, 10**400),
        *("1_0", "inf", "nan", Decimal("9007199254740993.5"), np.float32(2**24)),
    ],
)
def test_not_whole_numbers(value: object) -> None:
    with pytest.raises(RequestError) as raised:
        as_whole_number("bpm", value)
    assert (raised.value.field, raised.value.kind in ("wrong_type", "lost_digits")) == ("bpm", True)


def test_digits_beyond_a_float_are_kept() -> None:
    assert as_whole_number("seed", "9007199254740993") == as_whole_number("seed", Decimal(2**53 + 1)) == 2**53 + 1


def test_numbers_are_what_they_are_printed_as() -> None:
    assert as_number("shift", np.float32(0.1)) == as_number("shift", " 0.1 ") == 0.1
    with raises(RequestError, "wrong_type", "shift", "1_0"):
        as_number("shift", "1_0")


def test_a_decimal_comma_is_told() -> None:
    with raises(RequestError, "wrong_type", "shift", "0,3", remedy="write a decimal point: 0.3"):
        as_number("shift", "0,3")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"language": "EN"}, {"language": "en"}),
        ({"language": "zh-CN"}, {"language": "zh"}),
        ({"language": "pt_BR"}, {"language": "pt"}),
        ({"language": ""}, {"language": "unknown"}),
        ({"timesignature": "4/4"}, {"timesignature": "4"}),
        ({"timesignature": "6 / 8"}, {"timesignature": "6"}),
        ({"timesignature": "3.0"}, {"timesignature": "3"}),
        ({"keyscale": " f# Minor"}, {"keyscale": "F# minor"}),
        ({"lyrics": "one\r\ntwo\rthree\n"}, {"lyrics": "one\ntwo\nthree\n"}),
        ({"lyrics": "one_x000D_\ntwo_x000d_\r\nthree_x000D_four"}, {"lyrics": "one\ntwo\nthree\nfour"}),
        ({"caption": "jazz\r\npiano"}, {"caption": "jazz\npiano"}),
    ],
)
def test_what_means_the_same_is_the_same(written: dict[str, str], read: dict[str, str]) -> None:
    assert (
        check_prompt(Prompt(**{"caption": "x"} | written))[0] == check_prompt(Prompt(**{"caption": "x"} | read))[0]
    )


def test_a_prompt_without_anything_odd_stays_as_it_is() -> None:
    """What an item's id is made of: old folders keep their covers."""
    plain = Prompt(" jazz\ntrio ", "[Verse]\n la\n", "en", 90, "G major", "4")
    assert check_prompt(plain) == (plain, [])


@pytest.mark.parametrize("word", ["null", "undefined", "None"])
def test_a_word_for_nothing_is_noted(word: str) -> None:
    prompt, notes = check_prompt(Prompt(word, word))
    assert (prompt.caption, prompt.lyrics) == (word, word)
    assert [note.split()[0] for note in notes] == ["caption", "lyrics"]


def test_a_dropped_region_is_noted() -> None:
    (note,) = check_prompt(Prompt("x", "la", language="zh-HK"))[1]
    assert "'zh-HK'" in note
    assert not check_prompt(Prompt("x", "la", language="EN"))[1]


@pytest.mark.parametrize("timesignature", ["5/4", "4/8", "04-Apr", "12/8"])
def test_other_time_signatures_are_refused(timesignature: str) -> None:
    with raises(RequestError, "unknown_value", "timesignature", timesignature):
        check_prompt(Prompt("x", timesignature=timesignature))


def test_line_ends_of_stages_are_those_of_tracks() -> None:
    windows = parse_stage({"lyrics": "a\r\nb", "caption": "c\rd", "flow_edit_source_lyrics": "e\r\nf"})
    assert windows == parse_stage({"lyrics": "a\nb", "caption": "c\nd", "flow_edit_source_lyrics": "e\nf"})


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_json_is_read_down_to_a_depth(opening: str, closing: str) -> None:
    def text(levels: int) -> str:
        return opening * levels + "1" + closing * levels

    assert from_json(text(MAX_LEVELS))
    for levels in (MAX_LEVELS + 1, 900, 200_000):
        with pytest.raises(ValueError, match="nested"):
            from_json(text(levels))
