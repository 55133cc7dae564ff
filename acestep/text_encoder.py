"""Qwen3-Embedding: hidden states of a prompt, embedding-table rows of lyrics."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen3Config, Qwen3Model
from transformers.utils import logging as transformers_logging

from acestep.checkpoint import read_shapes
from acestep.config import read_json
from acestep.constants import MAX_LYRIC_TOKENS, MAX_PROMPT_TOKENS
from acestep.errors import CheckpointError


class TextEncoder:
    """Tokenizer and language model of one checkpoint folder."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype):
        tokenizer_file = check_text_encoder(folder)
        self.tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self.tokenizer.no_truncation()
        self.model = _load(folder, dtype)
        self.model.eval().to(device=device)

    def token_ids(self, text: str, most: int) -> list[int]:
        """Token ids, at most ``most``; the end token that the tokenizer appends survives truncation."""
        ids = self.tokenizer.encode(text).ids
        return ids if len(ids) <= most else [*ids[: most - 1], ids[-1]]

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, uncut."""
        return len(self.tokenizer.encode(text).ids)

    @torch.inference_mode()
    def states(self, ids: list[int]) -> Tensor:
        """Last hidden states ``[1, tokens, width]`` after the final norm, each token seeing those before it."""
        tokens = torch.tensor([ids], device=self.model.device)
        return self.model(input_ids=tokens, use_cache=False).last_hidden_state

    @torch.inference_mode()
    def rows(self, ids: list[int]) -> Tensor:
        """Rows ``[1, tokens, width]`` of the embedding table: lyrics do not pass the language model."""
        return self.model.embed_tokens(torch.tensor([ids], device=self.model.device))

    def prompt_states(self, text: str) -> Tensor:
        """States of a prompt."""
        return self.states(self.token_ids(text, MAX_PROMPT_TOKENS))

    def lyric_rows(self, text: str) -> Tensor:
        """Rows of lyrics."""
        return self.rows(self.token_ids(text, MAX_LYRIC_TOKENS))


def check_text_encoder(folder: Path) -> Path:
    """Look at a folder without loading it; returns its tokenizer file.

    Raises:
        CheckpointError: it is of another kind, or a file is missing or damaged.
    """
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "qwen3":
        raise CheckpointError(f"{folder}: model_type is {kind!r}, expected 'qwen3'")
    read_shapes(folder, "model")
    tokenizer_file = folder / "tokenizer.json"
    if not tokenizer_file.is_file():
        raise CheckpointError(f"{tokenizer_file}: no such file; is the checkpoint folder complete?")
    return tokenizer_file


def _load(folder: Path, dtype: torch.dtype) -> Qwen3Model:
    shown = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        loaded: Any = Qwen3Model.from_pretrained(
            folder,
            config=Qwen3Config.from_pretrained(folder, local_files_only=True),
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder}: the text encoder cannot be read: {error}") from error
    finally:
        transformers_logging.set_verbosity(shown)
        if bars:
            transformers_logging.enable_progress_bar()
    model, report = loaded
    wrong = {
        kind: sorted(map(str, report[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    if any(wrong.values()):
        raise CheckpointError(f"{folder}: the text encoder's tensors do not fit: {wrong}")
    return model
