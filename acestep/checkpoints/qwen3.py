"""Check and load Qwen3 folders: the text encoder and the 5 Hz language model.

``open_qwen3`` checks every file without reading the weights; ``load_qwen3`` loads them.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX as QWEN2_PATTERN
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding
from transformers.models.qwen3_5.tokenization_qwen3_5 import PRETOKENIZE_REGEX as QWEN3_PATTERN

from acestep.checkpoints.folder_files import replacement_advice
from acestep.checkpoints.json_files import read_json
from acestep.checkpoints.safetensors_files import (
    check_shapes,
    check_sizes,
    described_by,
    read_shapes,
    read_tensors,
)
from acestep.errors import FETCH_AGAIN, CheckpointError
from acestep.model.config_values import layer_count
from acestep.model.layers import Linear, Silu

TEXT_ENCODER_REMEDY = "give the folder of a Qwen3-Embedding model"

WEIGHTS = "model"
TOKENIZER_FILE = "tokenizer.json"
DIFFUSERS_TOKENIZER_FOLDER = "tokenizer"

# Configuration keys that affect the output.
_DECIDING = tuple(
    """
    attention_bias head_dim hidden_act hidden_size intermediate_size layer_types max_position_embeddings
    num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps rope_parameters sliding_window
    tie_word_embeddings use_sliding_window vocab_size
    """.split()
)
_READ = (*_DECIDING, "max_window_layers", "rope_scaling", "rope_theta")
_SIZES = "head_dim hidden_size intermediate_size num_attention_heads num_key_value_heads vocab_size".split()
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

# Component types of Qwen's tokenizers by section.
_PARTS = {
    "normalizer": ("Sequence", "NFC", "NFD", "NFKC", "NFKD"),
    "pre_tokenizer": ("Sequence", "Split", "ByteLevel"),
}
PATTERNS = (QWEN2_PATTERN, QWEN3_PATTERN)

Kind = type[Qwen3Model] | type[Qwen3ForCausalLM]
Content = TypeVar("Content")


def open_qwen3(
    folder: Path, kind: Kind, remedy: str = "give the folder of a Qwen3 model"
) -> tuple[Qwen3Config, Tokenizer]:
    """Check a folder without reading its weights: sizes, tokenizer, names and shapes of all tensors.

    Args:
        kind: the class, without or with a token prediction head.
        remedy: end of the message for a folder of another kind.

    Raises:
        CheckpointError: another kind of model, or a file is missing, damaged or does not match.
    """
    config = read_config(folder, remedy)
    file = folder / "config.json"
    shapes = read_shapes(folder, WEIGHTS)
    check_sizes(((name, getattr(config, name)) for name in _SIZES), config.num_hidden_layers, shapes, folder)
    with described_by(file, "Qwen3 model"):
        expected = {name: tuple(tensor.shape) for name, tensor in kind(config).state_dict().items()}
    tokenizer = open_tokenizer(tokenizer_file(folder))
    highest = max(tokenizer.get_vocab().values(), default=None)
    if highest is None or highest >= config.vocab_size:
        raise CheckpointError(
            "mismatched_weights",
            f"is {config.vocab_size}, but the highest token of {tokenizer_file(folder)} is {highest}",
            "the two are of different models, fetch both again",
            "vocab_size",
            where=file,
        )
    check_shapes(_as_in(kind, config, shapes), expected, folder)
    with described_by(file, "Qwen3 model"):
        Qwen3RotaryEmbedding(config)
    return config, tokenizer


def read_config(folder: Path, remedy: str = "give the folder of a Qwen3 model") -> Qwen3Config:
    """Read the model configuration of a folder.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind of model.
    """
    file = folder / "config.json"
    raw = read_json(file)
    if raw.get("model_type") != "qwen3":
        raise CheckpointError(
            "unsupported_weights", "", remedy, "model_type", raw.get("model_type"), allowed="qwen3", where=file
        )
    try:
        layer_count(raw, "num_hidden_layers")
    except (KeyError, ValueError) as error:
        reason = f"is missing or out of range ({error})"
        raise CheckpointError("missing_weights", reason, remedy, "num_hidden_layers", where=file) from error
    with described_by(file, "Qwen3 model"):
        # Other keys are dropped, because some are unsafe: attn_implementation can name code on the hub.
        return Qwen3Config.from_dict({key: raw[key] for key in _READ if key in raw})


def deciding(config: Qwen3Config) -> dict[str, Any]:
    """The configuration keys that affect the output."""
    return {key: getattr(config, key, None) for key in _DECIDING}


def tokenizer_file(folder: Path) -> Path:
    """The tokenizer file, in the folder or in the neighbouring tokenizer folder of the diffusers layout.

    Raises:
        CheckpointError: there is none.
    """
    for file in (folder / TOKENIZER_FILE, folder.parent / DIFFUSERS_TOKENIZER_FOLDER / TOKENIZER_FILE):
        if file.is_file():
            return file
    raise CheckpointError("missing_weights", "no such file", FETCH_AGAIN, where=folder / TOKENIZER_FILE)


def open_tokenizer(file: Path) -> Tokenizer:
    """Load a tokenizer, with truncation and padding disabled.

    Raises:
        CheckpointError: the file is damaged, or not one of Qwen's.
    """
    try:
        _check_parts(file, read_json(file))
        tokenizer = Tokenizer.from_file(str(file))
    except (UnknownPartError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises plain Exceptions and panics
        reason = f"not readable as a tokenizer ({error})"
        raise CheckpointError("damaged_weights", reason, replacement_advice(file), where=file) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class UnknownPartError(CheckpointError):
    """A tokenizer has a component that Qwen's tokenizers do not have."""


def _check_parts(file: Path, raw: dict[str, Any]) -> None:
    """Refuse components that Qwen's tokenizers do not have.

    Arbitrary patterns can take exponential time or panic, and replacements can use unlimited memory.
    """
    for section, known in _PARTS.items():
        for part in _nested(raw.get(section)):
            kind, pattern = part.get("type"), part.get("pattern", {})
            if "type" in part and kind not in known:
                reason = f"{section} is a {kind!r:.200}, expected {' or '.join(known)}"
                raise UnknownPartError("unsupported_weights", reason, "fetch it again", where=file)
            if "pattern" in part and (not isinstance(pattern, dict) or pattern.get("Regex") not in PATTERNS):
                raise UnknownPartError(
                    "unsupported_weights",
                    f"{section} splits at {pattern!r:.200}, unlike Qwen's",
                    "fetch it again",
                    where=file,
                )


def _nested(part: Any) -> Iterator[dict[str, Any]]:
    """All mappings nested in a JSON value."""
    waiting = [part]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def load_qwen3(folder: Path, kind: Kind, config: Qwen3Config, device: torch.device, dtype: torch.dtype) -> Any:
    """Load the model of a folder that ``open_qwen3`` has checked."""
    with torch.device("meta"):
        network: Any = kind(config)
    tensors = {name: tensor.to(dtype) for name, tensor in read_tensors(folder, WEIGHTS).items()}
    network.load_state_dict(_as_in(kind, config, tensors), assign=True)
    network.tie_weights()
    network.base_model.rotary_emb = Qwen3RotaryEmbedding(config)  # not in the files; stays fp32
    # Makes results independent of the number of threads.
    for layer in network.base_model.layers:
        layer.mlp.act_fn = Silu()
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
    return network.to(device).eval().requires_grad_(False)


def _as_in(kind: Kind, config: Qwen3Config, content: Mapping[str, Content]) -> dict[str, Content]:
    """Rename a file's tensors to the network's names.

    Some files omit the prefix of all tensors but the head, and a head that is tied to the embedding table.
    """
    headed = kind is Qwen3ForCausalLM
    prefix = "model." if headed else ""
    named = {n if n == _HEAD else prefix + n.removeprefix("model."): value for n, value in content.items()}
    if headed and config.tie_word_embeddings:
        named.pop(_HEAD, None)
        named |= {_HEAD: named[_EMBEDDING]} if _EMBEDDING in named else {}
    return named


def check_text_encoder(folder: Path) -> Qwen3Config:
    """Check a text encoder without loading it; return its configuration.

    Raises:
        CheckpointError: another kind of model, or a file is missing or damaged.
    """
    return open_qwen3(folder, Qwen3Model, TEXT_ENCODER_REMEDY)[0]
