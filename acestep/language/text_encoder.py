"""Qwen3-Embedding text encoder: hidden states of prompts, token embeddings of lyrics."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen3Model

from acestep.checkpoints.qwen3 import TEXT_ENCODER_REMEDY, load_qwen3, open_qwen3
from acestep.constants import MAX_LYRIC_TOKENS, MAX_PROMPT_TOKENS
from acestep.runtime.threads import inference


class TextEncoder:
    """Tokenizer and language model of one checkpoint folder.

    Raises:
        CheckpointError: see ``check_text_encoder``.
    """

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype):
        config, self.tokenizer = open_qwen3(folder, Qwen3Model, TEXT_ENCODER_REMEDY)
        self.model = load_qwen3(folder, Qwen3Model, config, device, dtype)

    def token_ids(self, text: str, max_tokens: int) -> list[int]:
        return token_ids(self.tokenizer, text, max_tokens)

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text before truncation."""
        return len(self.tokenizer.encode(text).ids)

    @inference
    def states(self, ids: list[int]) -> Tensor:
        """Last hidden states ``[1, tokens, width]`` after the final norm, with causal attention."""
        tokens = torch.tensor([ids], device=self.model.device)
        return self.model(input_ids=tokens, use_cache=False).last_hidden_state

    @inference
    def rows(self, ids: list[int]) -> Tensor:
        """Token embeddings ``[1, tokens, width]``: lyrics do not pass through the transformer."""
        return self.model.embed_tokens(torch.tensor([ids], device=self.model.device))

    def prompt_states(self, text: str) -> Tensor:
        return self.states(self.token_ids(text, MAX_PROMPT_TOKENS))

    def lyric_rows(self, text: str) -> Tensor:
        return self.rows(self.token_ids(text, MAX_LYRIC_TOKENS))


def token_ids(tokenizer: Tokenizer, text: str, max_tokens: int) -> list[int]:
    """Token ids, at most ``max_tokens``; truncation keeps the end token."""
    ids = tokenizer.encode(text).ids
    return ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]]
