"""Qwen3-Embedding: hidden states of a prompt, embedding-table rows of lyrics."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen3Config, Qwen3Model
from transformers.utils import logging as transformers_logging

from acestep.checkpoint import tokenizer_file
from acestep.config import read_json
from acestep.constants import MAX_LYRIC_TOKENS, MAX_PROMPT_TOKENS
from acestep.errors import CheckpointError
from acestep.weights import check_shapes, read_shapes


class TextEncoder:
    """Tokenizer and language model of one checkpoint folder."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype):
        check_text_encoder(folder)
        self.tokenizer = Tokenizer.from_file(str(tokenizer_file(folder)))
        self.tokenizer.no_truncation()
        self.model = _load(folder, dtype)
        self.model.eval().to(device=device)

    def token_ids(self, text: str, most: int) -> list[int]:
        """See the function of the same name."""
        return token_ids(self.tokenizer, text, most)

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


def token_ids(tokenizer: Tokenizer, text: str, most: int) -> list[int]:
    """Token ids, at most ``most``; the end token that the tokenizer appends survives truncation."""
    ids = tokenizer.encode(text).ids
    return ids if len(ids) <= most else [*ids[: most - 1], ids[-1]]


def check_text_encoder(folder: Path) -> Qwen3Config:
    """Look at a folder without loading it, tensor by tensor; returns the model's sizes.

    Raises:
        CheckpointError: it is of another kind, or a file is missing or damaged.
    """
    raw = read_json(folder / "config.json")
    if raw.get("model_type") != "qwen3":
        raise CheckpointError(f"{folder}: model_type is {raw.get('model_type')!r}, expected 'qwen3'")
    try:
        config = Qwen3Config.from_dict(raw)
        with torch.device("meta"):
            expected = {name: tuple(tensor.shape) for name, tensor in Qwen3Model(config).state_dict().items()}
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{folder}: config.json describes no Qwen3 model ({reason}); fetch it again"
        ) from error
    found = {name.removeprefix("model."): shape for name, shape in read_shapes(folder, "model").items()}
    check_shapes(found, expected, folder)
    tokenizer_file(folder)
    return config


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
