r"""The grammar of a think block, on bytes: which tokens of a vocabulary may come next.

The grammar is a small graph. A node holds byte strings, one of which has to be read in full, and where each leads:
the node of the tempo holds ``\nbpm: 30\ncaption: `` .. ``\nbpm: 300\ncaption: ``, the caption's its characters. No
string of a node begins with another one of it, so a text is at one place of the graph only. Tokens may reach over
several strings and may end inside a character, as those of a byte-level vocabulary do.
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

MAX_CAPTION_BYTES = 1024  # beyond it the caption ends at the next chance
TAG = "<"  # begins every tag; a caption that holds one could end the block

Rules = Mapping[str, Mapping[bytes, str]]


class GrammarState(NamedTuple):
    """Where in the grammar a text ends: a node, and what was read of one of its strings."""

    node: str
    read: bytes = b""


START, END = GrammarState("bpm"), GrammarState("end")


@cache
def think_block_rules() -> Rules:
    """The lines of a think block, from behind its opening tag to before its closing one.

    A caption is one or more lines of printable characters without tags, each line but the first indented.
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
        rules: node -> its strings -> the node each leads to.
        vocabulary: token id -> its bytes. It must hold every single byte, so that no text is a dead end.
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
        """The place after reading ``text``; None where the grammar does not allow it."""
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
        """The tokens that may come next, ids ascending ``[n]``."""
        tokens = [
            token
            for first, candidates in self._by_first_byte.items()
            if self.advance(place, first) is not None
            for token, text in candidates
            if self.advance(place, text) is not None
        ]
        return np.sort(np.array(tokens, dtype=np.int64))


def closing(place: GrammarState) -> GrammarState:
    """The same place for a caption that is too long: between two characters it may only end."""
    return GrammarState("after caption") if place == GrammarState("caption") else place


def byte_symbols() -> dict[str, int]:
    """The character by which byte-level vocabularies write each byte, and the byte.

    Bytes that are visible in Latin-1 are written as themselves, the others by the characters from U+0100 on.
    """
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_of = {symbol: ord(symbol) for symbol in symbols if ord(symbol) < 256}
    others = sorted(set(range(256)) - set(byte_of.values()))
    return byte_of | dict(zip(symbols[len(byte_of) :], others, strict=True))


def byte_vocabulary(tokenizer: Tokenizer) -> dict[int, bytes]:
    """The bytes of each ordinary token of a byte-level vocabulary; added tokens (tags, codes) are left out."""
    byte_of, added = byte_symbols(), tokenizer.get_added_tokens_decoder()
    return {
        token: bytes(byte_of[symbol] for symbol in written)
        for written, token in tokenizer.get_vocab().items()
        if written and token not in added and all(symbol in byte_of for symbol in written)
    }
