"""The grammar of the think block: every meaningful value can be said and nothing else; how tokens are drawn."""

from functools import cache

import pytest
import torch
from torch import Tensor

from acestep.constants import KEYSCALES, LANGUAGES
from acestep.language.grammar import END, START, Grammar, byte_vocabulary, think_block_rules
from acestep.language.token_sampling import SamplingParams
from tests.acestep.language import miniature_lm


@cache
def grammar() -> tuple[Grammar, dict[int, bytes]]:
    vocabulary = byte_vocabulary(miniature_lm.build_tokenizer())
    return Grammar(think_block_rules(), vocabulary), vocabulary


def reads(text: str) -> bool:
    """Whether the grammar reads a text to its end, in the tokens the tokenizer makes of it."""
    rules, vocabulary = grammar()
    place = START
    for token in miniature_lm.build_tokenizer().encode(text, add_special_tokens=False).ids:
        after = rules.advance(place, vocabulary.get(token, b"<"))
        assert (after is not None) == (token in rules.allowed(place))
        if after is None:
            return False
        place = after
    return place == END


def block(bpm="120", caption="A calm piano.", duration="30", keyscale="C major", language="en", beats="4") -> str:
    return (
        f"\nbpm: {bpm}\ncaption: {caption}\nduration: {duration}\nkeyscale: {keyscale}\n"
        f"language: {language}\ntimesignature: {beats}\n"
    )


def test_every_meaningful_value_can_be_said() -> None:
    assert len(KEYSCALES) == 70
    for name, values in {
        "bpm": (30, 31, 99, 100, 299, 300),
        "duration": (10, 99, 100, 599, 600),
        "keyscale": KEYSCALES,
        "language": LANGUAGES,
        "beats": (2, 3, 4, 6),
        "caption": (
            "x",
            "one: two",
            "Ä♯ 舞曲 🎸, 'quoted'",
            "First.\n  Second.\n  Third",
            "trailing ",
            "#1\n  - 2",
        ),
    }.items():
        for value in values:
            assert reads(block(**{name: str(value)})), (name, value)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"bpm": bpm} for bpm in ("29", "301", "030", "3000", "", "12a", "-30", "N/A")),
        *({"duration": seconds} for seconds in ("9", "601", "1000", "30s", "")),
        *({"keyscale": name} for name in ("H major", "C", "c major", "C  major", "Cb Major", "N/A", "")),
        *({"language": name} for name in ("xx", "", "EN", "english")),
        *({"beats": beats} for beats in ("5", "44", "4/4", "1", "")),
        *({"caption": text} for text in ("", " ", " x", "a\nb", "a\n b", "a\n\n  b", "a\n   b", "a\n  ", "a\n")),
        *({"caption": text} for text in ("</think>", "a <b", "tab\t", "\u2028", "a\x85b", "a\r", "\u3000a")),
    ],
    ids=str,
)
def test_nothing_else_can_be_said(wrong: dict[str, str]) -> None:
    assert reads(block())
    assert not reads(block(**wrong))


def test_no_string_of_the_grammar_begins_with_another() -> None:
    for strings in think_block_rules().values():
        assert not any(string[:end] in strings for string in strings for end in range(1, len(string)))


def test_every_byte_and_piece_of_the_vocabulary_is_known_by_its_bytes() -> None:
    _, vocabulary = grammar()
    texts = list(vocabulary.values())
    assert len(set(texts)) == len(texts)
    assert {bytes([byte]) for byte in range(256)} <= set(texts)
    assert set(miniature_lm.PIECES) <= set(texts)
    assert not any(b"audio_code" in text or b"think>" in text for text in texts)


def test_drawing_follows_the_probabilities() -> None:
    logits = torch.tensor([1.0, 3.0, 0.5, 2.0, -4.0])

    def shares(sampling: SamplingParams, draws: int = 4000) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        drawn = torch.tensor([sampling.draw(logits, generator) for _ in range(draws)])
        return drawn.bincount(minlength=5) / draws

    for temperature in (0.5, 1.0, 2.0):
        assert torch.allclose(shares(SamplingParams(temperature)), (logits / temperature).softmax(0), atol=0.03)
    best_two = torch.tensor([0.0, 3.0, 0, 2.0, 0]).where(torch.tensor([0, 1, 0, 1, 0]) > 0, -torch.inf).softmax(0)
    assert torch.allclose(shares(SamplingParams(1.0, top_k=2)), best_two, atol=0.03)
    assert torch.allclose(shares(SamplingParams(1.0, top_p=0.7)), best_two, atol=0.03)  # 0.61, then 0.84
    for best in (
        SamplingParams(0),
        SamplingParams(5.0, top_k=1),
        SamplingParams(5.0, top_p=1e-6),
        SamplingParams(1e-5),
    ):
        assert shares(best, 50)[1] == 1
    assert torch.allclose(shares(SamplingParams(1.0, top_k=99)), logits.softmax(0), atol=0.03)
