"""The 5 Hz language model, which describes a track given its audio codes.

A Qwen3 causal model with one token per audio code. Constrained decoding (``acestep.language.grammar``) makes the
answer complete and well-formed; ``acestep.language.understanding.fill_prompt`` fills missing fields of a request.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, pre_tokenizers
from torch import Tensor
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

from acestep.checkpoints.qwen3 import load_qwen3, open_qwen3, tokenizer_file
from acestep.errors import CheckpointError, GenerationError, RequestError
from acestep.language.grammar import (
    END,
    MAX_CAPTION_BYTES,
    START,
    Grammar,
    byte_vocabulary,
    closing,
    think_block_rules,
)
from acestep.language.token_sampling import SamplingParams
from acestep.language.understanding import (
    AUDIO_CODE,
    END_THINK,
    END_TURN,
    START_TURN,
    THINK,
    Understanding,
    codes_text,
    understanding_of,
    understanding_prompt,
)
from acestep.runtime.threads import inference

END_OF_TEXT = "<|endoftext|>"
MAX_NEW_TOKENS = 2048  # enough for a think block with one token per byte
MAX_CODES = 64_000  # the vocabulary has more, unused slots
REMEDY = "give the folder of a 5 Hz language model, such as acestep-5Hz-lm-1.7B"


class LanguageModel:
    """A loaded language model and its tokenizer.

    Attributes:
        codes: number of audio codes.
    """

    def __init__(self, network: Qwen3ForCausalLM, tokenizer: Tokenizer):
        self.network = network
        self.tokenizer = tokenizer
        self.codes = min(count_codes(tokenizer), MAX_CODES)
        self._vocabulary = byte_vocabulary(tokenizer)
        self._grammar = Grammar(think_block_rules(), self._vocabulary)
        self._ends = {tokenizer.token_to_id(token) for token in (END_TURN, END_OF_TEXT)} - {None}
        self._tokens = np.array(sorted(tokenizer.get_vocab().values()), dtype=np.int64)

    @classmethod
    def from_checkpoint(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> "LanguageModel":
        """Load a model.

        Raises:
            CheckpointError: another kind of model, or a file is missing, damaged or does not match.
        """
        config, tokenizer = open_language_model(folder)
        return cls(load_qwen3(folder, Qwen3ForCausalLM, config, device, dtype), tokenizer)

    def understand(
        self,
        codes: Sequence[int],
        seed: int,
        temperature: float = 0.3,
        top_k: int = 0,
        top_p: float = 1.0,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrained: bool = True,
        lyrics: bool = False,
    ) -> Understanding:
        """Describe a track.

        Args:
            codes: audio codes, five per second.
            seed: seed of the sampling.
            temperature, top_k, top_p: see ``SamplingParams``.
            max_new_tokens: length limit; fields beyond it are empty.
            constrained: force a well-formed think block.
            lyrics: also generate lyrics, which covers do not need. Unconstrained answers always include them.

        Raises:
            RequestError: there are no codes, or a code or parameter is out of range.
        """
        sampling = SamplingParams(temperature, top_k, top_p)
        return understanding_of(self.answer(codes, seed, sampling, max_new_tokens, constrained, lyrics))

    def answer(
        self,
        codes: Sequence[int],
        seed: int,
        sampling: SamplingParams,
        max_new_tokens: int = MAX_NEW_TOKENS,
        constrained: bool = True,
        lyrics: bool = False,
    ) -> str:
        """The raw text of an answer; arguments as in ``understand``."""
        if max_new_tokens < 1:
            raise RequestError("out_of_range", field="max_new_tokens", value=max_new_tokens, allowed="1 or more")
        generator = torch.Generator("cpu").manual_seed(seed)
        feed, unread = self._feeder(), self.prompt_ids(codes)
        said: list[int] = []
        for allowed in self._choices(said, constrained, lyrics):
            if len(allowed) == 1:
                token = int(allowed[0])
                unread.append(token)
            else:
                logits = feed(unread)[torch.from_numpy(allowed)]
                token = int(allowed[sampling.draw(logits, generator)])
                unread = [token]
            said.append(token)
            if len(said) == max_new_tokens:
                break
        return b"".join(map(self._bytes, said)).decode(errors="replace")

    def prompt_ids(self, codes: Sequence[int]) -> list[int]:
        """Token ids of the prompt for a track's codes.

        Raises:
            RequestError: there are no codes, or a code is out of range.
        """
        if len(codes) == 0:
            raise RequestError("invalid_value", "audio codes are empty: the track is too short to be understood")
        invalid = next((code for code in codes if not 0 <= code < self.codes), None)
        if invalid is not None:
            reason = f"audio code {invalid} is out of range"
            raise RequestError("out_of_range", reason, allowed=f"0..{self.codes - 1}")
        return self.tokenizer.encode(understanding_prompt(codes), add_special_tokens=False).ids

    def _choices(self, said: list[int], constrained: bool, lyrics: bool) -> Iterator[np.ndarray]:
        """Yield the tokens allowed at each step; ``said``, the tokens so far, grows between steps."""
        if constrained:
            yield self._only(THINK)
            place, caption_bytes = START, 0
            while place != END:
                yield self._grammar.allowed(place)
                text = self._vocabulary[said[-1]]
                after = self._grammar.advance(place, text)
                assert after is not None
                caption_bytes += len(text) if after.node.startswith("caption") else 0
                place = closing(after) if caption_bytes >= MAX_CAPTION_BYTES else after
            yield self._only(END_THINK)
            if not lyrics:
                return
        while not said or said[-1] not in self._ends:
            yield self._tokens

    def _bytes(self, token: int) -> bytes:
        return self._vocabulary.get(token) or (self.tokenizer.id_to_token(token) or "").encode()

    def _only(self, token: str) -> np.ndarray:
        return np.array([self.tokenizer.token_to_id(token)], dtype=np.int64)

    def _feeder(self) -> Callable[[list[int]], Tensor]:
        """A function that feeds tokens and returns the next token's logits ``[vocabulary]`` (fp32, CPU).

        It raises GenerationError if the logits are not finite.
        """
        cache = DynamicCache(config=self.network.config)

        @inference
        def feed(tokens: list[int]) -> Tensor:
            ids = torch.tensor([tokens], device=self.network.device)
            output = self.network(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            logits = output.logits[0, -1].float().cpu()
            if not logits.isfinite().all():
                reason = "the language model gave values that are not finite"
                raise GenerationError("not_finite", reason, "run it in another dtype")
            return logits

        return feed


def open_language_model(folder: Path) -> tuple[Qwen3Config, Tokenizer]:
    """Check a folder without reading its weights: sizes, tokenizer, names and shapes of all tensors.

    Raises:
        CheckpointError: another kind of model, or a file is missing, damaged or does not match.
    """
    config, tokenizer = open_qwen3(folder, Qwen3ForCausalLM, REMEDY)
    _check_tokens(tokenizer, tokenizer_file(folder))
    return config, tokenizer


def _check_tokens(tokenizer: Tokenizer, file: Path) -> None:
    first_code = tokenizer.token_to_id(AUDIO_CODE.format(0))
    if first_code is None:
        reason = f"has no token {AUDIO_CODE.format(0)}: this is a text encoder or another Qwen3 model"
        raise CheckpointError("unsupported_weights", reason, REMEDY, where=file)
    missing = [t for t in (START_TURN, END_TURN, THINK, END_THINK) if tokenizer.token_to_id(t) is None]
    if missing:
        raise CheckpointError("unsupported_weights", f"has no token {', '.join(missing)}", REMEDY, where=file)
    if any(tokenizer.token_to_id(symbol) is None for symbol in pre_tokenizers.ByteLevel.alphabet()):
        raise CheckpointError(
            "unsupported_weights",
            "not a byte-level vocabulary, which has a token for each byte",
            REMEDY,
            where=file,
        )
    ids = [tokenizer.token_to_id(AUDIO_CODE.format(code)) for code in range(count_codes(tokenizer))]
    if ids != list(range(first_code, first_code + len(ids))):
        raise CheckpointError(
            "unsupported_weights",
            f"the {len(ids)} audio codes are not one run of tokens from {first_code} on",
            REMEDY,
            where=file,
        )
    read = tokenizer.encode(codes_text((0, len(ids) - 1)), add_special_tokens=False).ids
    if read != [ids[0], ids[-1]]:
        raise CheckpointError(
            "damaged_weights", f"reads an audio code as several tokens ({read})", REMEDY, where=file
        )


def count_codes(tokenizer: Tokenizer) -> int:
    head, tail = AUDIO_CODE.split("{}")
    return sum(token.startswith(head) and token.endswith(tail) for token in tokenizer.get_vocab())
