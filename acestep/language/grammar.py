r"""Constrained decoding of a think block: a byte-level grammar that yields the allowed next tokens.

The grammar is a graph. Each node maps byte strings to next nodes: the tempo node has ``\nbpm: 30\ncaption: `` ..
``\nbpm: 300\ncaption: ``, the caption node its characters. The strings of a node are prefix-free, so the state of
a text is unique. Tokens may span several strings and may end inside a character, as in a byte-level vocabulary.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer, pre_tokenizers

from acestep.constants import BPM_RANGE, KEYSCALES, LANGUAGES, TIME_SIGNATURES
from acestep.language.understanding import DURATION_RANGE

MAX_CAPTION_BYTES = 1024  # a longer caption ends after the current character
TAG = "<"  # begins every tag; a tag in a caption could end the block

Rules = Mapping[str, Mapping[bytes, str]]


class GrammarState(NamedTuple):
    """State of the grammar: a node, and the prefix read of one of its strings."""

    node: str
    read: bytes = b""


START, END = GrammarState("bpm"), GrammarState("end")


@cache
def think_block_rules() -> Rules:
    """Rules for the lines between the opening and the closing tag of a think block.

    A caption has one or more lines of printable characters without tags; all lines but the first are indented.
    """
    tempos = range(BPM_RANGE[0], BPM_RANGE[1] + 1)
    seconds = range(DURATION_RANGE[0], DURATION_RANGE[1] + 1)
    printable = [c for c in map(chr, range(sys.maxunicode + 1)) if c.isprintable() and c != TAG]
    duration = _leading_to("keyscale", (f"\nduration: {n}\n" for n in seconds))
    return {
        "bpm": _leading_to("caption line", (f"\nbpm: {n}\ncaption: " for n in tempos)),
        "caption line": _leading_to("caption", (c for c in printable if not c.isspace())),
        "caption": _leading_to("caption", printable) | {b"\n  ": "caption line"} | duration,
        "after caption": duration,
        "keyscale": _leading_to("language", (f"keyscale: {name}\n" for name in KEYSCALES)),
        "language": _leading_to("timesignature", (f"language: {name}\n" for name in LANGUAGES)),
        "timesignature": _leading_to(END.node, (f"timesignature: {beats}\n" for beats in TIME_SIGNATURES)),
        END.node: {},
    }


def _leading_to(node: str, strings: Iterable[str]) -> dict[bytes, str]:
    return {string.encode(): node for string in strings}


class Grammar:
    """A grammar over one vocabulary.

    Args:
        rules: node -> byte string -> next node.
        vocabulary: token id -> bytes. Must contain every single byte, so that there are no dead ends.
    """

    def __init__(self, rules: Rules, vocabulary: Mapping[int, bytes]):
        self._rules = rules
        self._beginnings = {
            node: {string[:end] for string in strings for end in range(len(string))}
            for node, strings in rules.items()
        }
        self._by_first_byte = defaultdict(list)
        for token, text in sorted(vocabulary.items()):
            self._by_first_byte[text[:1]].append((token, text))
        self.allowed = cache(self._allowed)

    def advance(self, place: GrammarState, text: bytes) -> GrammarState | None:
        """The state after reading ``text``; None if the grammar does not allow it."""
        node, read = place
        for position in range(len(text)):
            read += text[position : position + 1]
            following = self._rules[node].get(read)
            if following is not None:
                node, read = following, b""
            elif read not in self._beginnings[node]:
                return None
        return GrammarState(node, read)

    def _allowed(self, place: GrammarState) -> np.ndarray:
        """Sorted ids ``[n]`` of the allowed next tokens."""
        tokens = [
            token
            for first, candidates in self._by_first_byte.items()
            if self.advance(place, first) is not None
            for token, text in candidates
            if self.advance(place, text) is not None
        ]
        return np.sort(np.array(tokens, dtype=np.int64))


def closing(place: GrammarState) -> GrammarState:
    """The state that ends a caption after the current character."""
    return GrammarState("after caption") if place == GrammarState("caption") else place


def byte_symbols() -> dict[str, int]:
    """Map the characters that represent bytes in byte-level vocabularies to the bytes.

    Printable Latin-1 bytes represent themselves; the others are represented by characters from U+0100 on.
    """
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_of = {symbol: ord(symbol) for symbol in symbols if ord(symbol) < 256}
    others = sorted(set(range(256)) - set(byte_of.values()))
    return byte_of | dict(zip(symbols[len(byte_of) :], others, strict=True))


def byte_vocabulary(tokenizer: Tokenizer) -> dict[int, bytes]:
    """Map the ordinary tokens of a byte-level vocabulary to bytes; excludes added tokens (tags, codes)."""
    byte_of, added = byte_symbols(), tokenizer.get_added_tokens_decoder()
    return {
        token: bytes(byte_of[symbol] for symbol in written)
        for written, token in tokenizer.get_vocab().items()
        if written and token not in added and all(symbol in byte_of for symbol in written)
    }
