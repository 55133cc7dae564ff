"""The language model: well-formed and repeatable answers, whatever the weights say."""

import re
from pathlib import Path

import pytest
import torch
from transformers import Qwen3ForCausalLM

from acestep.constants import LANGUAGES
from acestep.errors import GenerationError, RequestError
from acestep.language import language_model
from acestep.language.grammar import END, MAX_CAPTION_BYTES, START, Grammar, byte_vocabulary, think_block_rules
from acestep.language.language_model import LanguageModel
from acestep.language.token_sampling import SamplingParams
from acestep.language.understanding import Understanding, understanding_of, understanding_prompt
from tests.acestep.language import miniature_lm

CPU = torch.device("cpu")
CODES = (5, 0, 63, 17)
GREEDY = SamplingParams(temperature=0)
BLOCK = re.compile(
    r"<think>\nbpm: ([1-9]\d*)\ncaption: ([^\s<][^\n<]*(?:\n  [^\s<][^\n<]*)*)\nduration: ([1-9]\d*)\n"
    r"keyscale: ([A-G][#b♯♭]? (?:major|minor))\nlanguage: ([a-z]+)\ntimesignature: ([2346])\n</think>"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature_lm.write(tmp_path_factory.mktemp("lm") / "acestep-5Hz-lm-tiny")


@pytest.fixture
def model(folder: Path) -> LanguageModel:
    return load(folder)


def load(folder: Path) -> LanguageModel:
    return LanguageModel.from_checkpoint(folder, CPU, torch.float32)


@pytest.fixture
def short_captions(monkeypatch: pytest.MonkeyPatch) -> int:
    """Captions of fewer bytes than usual, for answers that would be as long as allowed."""
    monkeypatch.setattr(language_model, "MAX_CAPTION_BYTES", 100)
    return 100


def check_block(text: str, most: int = MAX_CAPTION_BYTES) -> Understanding:
    """Fail unless a text is one well-formed think block whose values are all in range."""
    match = BLOCK.fullmatch(text)
    assert match, text
    bpm, caption, duration, _, language, _ = match.groups()
    assert 30 <= int(bpm) <= 300
    assert 10 <= int(duration) <= 600
    assert language in LANGUAGES
    assert all(line.isprintable() for line in caption.split("\n"))
    assert "\ufffd" not in text
    assert len(caption.encode()) <= most + 12
    found = understanding_of(text)
    assert found.unusable == ()
    assert (str(found.bpm), str(found.duration), found.keyscale) == (bpm, duration, match[4])
    assert (found.language, found.timesignature) == (language, match[6])
    assert found.caption
    return found


def favour(model: LanguageModel, *texts: bytes | str, by: float = 1e4) -> None:
    """Make a model want some tokens more than anything else, the first of them most."""
    ids = {text: token for token, text in byte_vocabulary(model.tokenizer).items()}
    bias = torch.zeros(model.network.config.vocab_size)
    for rank, text in enumerate(texts):
        token = ids[text] if isinstance(text, bytes) else model.tokenizer.token_to_id(text)
        bias[token] = by * (1 - rank / 100)
    head = model.network.lm_head
    model.network.lm_head = torch.nn.Linear(head.in_features, head.out_features)
    model.network.lm_head.weight, model.network.lm_head.bias = head.weight, torch.nn.Parameter(bias)
    model.network.requires_grad_(False)


def test_answers_are_well_formed_whatever_the_weights_say(model: LanguageModel, short_captions: int) -> None:
    found = [check_block(model.answer(CODES, seed, SamplingParams(1.5)), short_captions) for seed in range(16)]
    for name in ("bpm", "duration", "keyscale", "language", "timesignature", "caption"):
        assert len({getattr(one, name) for one in found}) > 1, name
    found = model.understand(CODES, seed=3)
    assert found == model.understand(CODES, seed=3)
    assert found.bpm
    assert found.lyrics == ""


@pytest.mark.parametrize(
    "wanted",
    [
        ("<|im_end|>",),
        ("<|endoftext|>", "</think>"),
        ("</think>", "<think>", "<|audio_code_3|>"),
        (b"\n",),
        (b"\n\n", b".\n\n", b"\n"),
        (b"\n  ", b"\n ", b" "),
        (b"\n ", b" ", b"!"),
        (b"\n  A", b"\n ", b" ", b"A"),
        (b"<", b"</", b"</think"),
        (b"0",),
        (b"9", b"300", b"0\n"),
        (b"300", b"30", b"0", b"0\n"),
        (b"\xe2\x99", b"\x99\xaf", b"\xaf"),
        (b"A\xe2", b"\xad b", b"\x80", b"\xa8"),
        (b"\xed\xa0", b"\xed", b"\xa0", b"\x80"),
        (b"\xf3\xa0", b"\xf3", b"\xf4", b"\xff", b"\xc0"),
        (b"\x00", b"\t", b"\r", b"\x7f", b"\xc2", b"\x85"),
        ("\u2028".encode(), "\x85".encode(), "\u3000".encode(), b"\xe2", b"\x80", b"\xa8"),
        (b" ",),
        (b"-", b"H", b"#"),
        (b"\xf0", b"\x9f", b"\xad b"),
    ],
    ids=str,
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_constraints_hold_against_a_model_that_wants_otherwise(
    model: LanguageModel, short_captions: int, wanted: tuple[bytes | str, ...], temperature: float
) -> None:
    favour(model, *wanted)
    check_block(model.answer(CODES, 0, SamplingParams(temperature)), short_captions)


def test_within_the_grammar_the_model_has_its_way(model: LanguageModel) -> None:
    favour(model, b"\n  A", b": 1", b"12", b"0\n", b" major")
    text = model.answer(CODES, 0, GREEDY)
    check_block(text)
    assert text.startswith("<think>\nbpm: 112\ncaption: 1\n  A\n  A\n  A")
    assert "\n  A\nduration: 112\nkeyscale: " in text
    assert " major\n" in text


def test_same_seed_same_text_and_other_seeds_differ(
    folder: Path, model: LanguageModel, short_captions: int
) -> None:
    answers = [model.answer(CODES, seed, SamplingParams(1.0)) for seed in range(4)]
    assert len(set(answers)) == 4
    torch.manual_seed(99)
    torch.set_default_dtype(torch.float64)
    try:
        torch.rand(3)
        again = load(folder)
        assert [again.answer(CODES, seed, SamplingParams(1.0)) for seed in reversed(range(4))] == answers[::-1]
    finally:
        torch.set_default_dtype(torch.float32)
    state = torch.random.get_rng_state()
    model.answer(CODES, 1, SamplingParams(1.0))
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.answer((5, 0, 63, 18), 0, SamplingParams(1.0)) != answers[0]


def test_unconstrained_greedy_answers_are_those_of_transformers(folder: Path, model: LanguageModel) -> None:
    network = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer, lengths = model.tokenizer, set()
    ends = [tokenizer.token_to_id(token) for token in ("<|im_end|>", "<|endoftext|>")]
    for codes in ((1,), CODES, tuple(range(64)), (33,)):
        ids = tokenizer.encode(understanding_prompt(codes), add_special_tokens=False).ids
        expected = network.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            do_sample=False,
            max_new_tokens=100,
            eos_token_id=ends,
            pad_token_id=ends[1],
        )[0, len(ids) :].tolist()
        lengths.add(len(expected))
        text = b"".join(model._bytes(token) for token in expected).decode(errors="replace")
        assert model.answer(codes, 0, GREEDY, max_new_tokens=100, constrained=False) == text
    assert len(lengths) > 1, "some must end by themselves"


def test_constrained_greedy_answers_take_the_likeliest_allowed_token(model: LanguageModel) -> None:
    """Against a full forward pass per token, without a cache and without runs of forced tokens."""
    text = model.answer(CODES, 0, GREEDY)
    vocabulary, rules = (
        byte_vocabulary(model.tokenizer),
        Grammar(think_block_rules(), byte_vocabulary(model.tokenizer)),
    )
    ids = [*model.prompt_ids(CODES), model.tokenizer.token_to_id("<think>")]
    place, said = START, b""
    while place != END and len(said) < 200:
        logits = model.network(torch.tensor([ids])).logits[0, -1]
        allowed = rules.allowed(place).tolist()
        ids.append(max(allowed, key=lambda token: float(logits[token])))
        said += vocabulary[ids[-1]]
        after = rules.advance(place, vocabulary[ids[-1]])
        assert after is not None
        place = after
    assert len(said) > 50
    assert text.encode().startswith(b"<think>" + said)


def test_lyrics_and_the_most_tokens(model: LanguageModel, short_captions: int) -> None:
    alone = model.answer(CODES, 0, GREEDY)
    favour(model, "</think>", by=5e3)
    longer = model.answer(CODES, 0, GREEDY, lyrics=True, max_new_tokens=300)
    assert longer.count("</think>") > 1, "after the block anything may come"
    assert model.answer(CODES, 0, GREEDY, max_new_tokens=3) in ("<think>\nb", "<think>\nbpm: ")
    assert model.understand(CODES, 0, max_new_tokens=3) == Understanding()
    assert alone.endswith("</think>")
    favour(model, "<|im_end|>")
    assert model.answer(CODES, 0, GREEDY, lyrics=True).endswith("</think><|im_end|>")
    assert model.answer(CODES, 0, GREEDY, constrained=False) == "<|im_end|>"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"codes": ()}, "audio codes are empty"),
        ({"codes": (1, 64)}, r"audio code 64 is out of range; allowed: 0\.\.63"),
        ({"codes": (-1,)}, "audio code -1 is out of range"),
        ({"temperature": -0.1}, "temperature -0.1 is out of range"),
        ({"temperature": float("nan")}, "temperature nan is out of range"),
        ({"top_k": -1}, "top_k -1 is out of range"),
        ({"top_p": 0.0}, "top_p 0 is out of range; allowed: above 0, at most 1"),
        ({"max_new_tokens": 0}, "max_new_tokens 0 is out of range"),
    ],
)
def test_requests_without_a_meaning(model: LanguageModel, wrong: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        model.understand(**({"codes": CODES, "seed": 0} | wrong))


def test_values_that_are_not_finite(model: LanguageModel) -> None:
    favour(model, b"a", by=float("nan"))
    with pytest.raises(GenerationError, match="not finite"):
        model.understand(CODES, 0)
