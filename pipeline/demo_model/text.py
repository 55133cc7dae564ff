"""The text encoder's vocabulary: byte-level BPE learned on prompts, in the form of Qwen's ``tokenizer.json``."""

import random
from collections.abc import Iterator

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from acestep.checkpoints.qwen3 import QWEN2_PATTERN
from acestep.language.prompt import Prompt, lyric_prompt, text_prompt
from pipeline.demo_model.arrangers import GENRES
from pipeline.demo_model.captions import caption
from pipeline.demo_model.composition import KEYS

VOCABULARY = 900
PROMPTS = 3000  # that the merges are learned from
END_OF_TEXT = "<|endoftext|>"
SPECIAL = (END_OF_TEXT, "<|im_start|>", "<|im_end|>")
INSTRUMENTAL = lyric_prompt(Prompt("", "[Instrumental]", "unknown"))


def prompt(genre: str, bpm: int, keyscale: str, timesignature: str, task: str, draw: random.Random) -> str:
    """The text that the encoder reads of a song in a genre; each musical fact is left out now and then."""
    known = [draw.random() < 0.7 for _ in range(3)]
    request = Prompt(
        caption(genre, draw),
        bpm=bpm if known[0] else None,
        keyscale=keyscale if known[1] else "",
        timesignature=timesignature if known[2] else "",
    )
    return text_prompt(request, task, draw.randint(5, 40))


def learn(seed: int = 1) -> Tokenizer:
    """Learn the merges; the same for the same seed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(random.Random(seed)), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    end = (END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END_OF_TEXT}", special_tokens=[end])
    return tokenizer


def _texts(draw: random.Random) -> Iterator[str]:
    for _ in range(PROMPTS):
        keyscale = f"{draw.choice(KEYS)} {draw.choice(('major', 'minor'))}"
        task = draw.choice(("cover", "text2music"))
        text = prompt(draw.choice(GENRES), draw.randint(60, 200), keyscale, draw.choice("346"), task, draw)
        yield text.replace(END_OF_TEXT, "")
    for _ in range(50):
        yield INSTRUMENTAL.replace(END_OF_TEXT, "")
