"""A miniature checkpoint for tests: random weights in the complete published layout.

Weights depend on nothing but their names, so every machine writes the same bytes, and results that tests pin stay
when another built-in model is shipped. ``BASE`` and ``TURBO`` are given as ``model=``. The folder is written once
per machine, as this module is imported.
"""

import json
import math
import os
import shutil
import tempfile
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from acestep.checkpoints.checkpoint import SILENCE_FILE, model_shapes
from acestep.checkpoints.folders import AUTOENCODER_FOLDER, MODEL_PREFIX, TEXT_ENCODER_FOLDER
from acestep.model.ace_step import AceStepModel
from acestep.model.autoencoder import Autoencoder, weight_norm_shapes
from acestep.model.config import parse_autoencoder_config, parse_model_config
from pipeline.benchmark.byte_tokenizer import END_OF_TEXT, byte_tokenizer

FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "restyle-tests" / "miniature-1"
BASE, TURBO = (str(FOLDER / f"{MODEL_PREFIX}{variant}") for variant in ("base", "turbo"))
VARIANTS = ("base", "turbo")
SILENCE_FRAMES = 15_000
TEXT_WIDTH = 64
LATENT_CHANNELS = 8

_MODEL = {
    "model_type": "acestep",
    "architectures": ["AceStepConditionGenerationModel"],
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_lyric_encoder_hidden_layers": 2,
    "num_timbre_encoder_hidden_layers": 2,
    "num_attention_pooler_hidden_layers": 2,
    "text_hidden_dim": TEXT_WIDTH,
    "audio_acoustic_hidden_dim": LATENT_CHANNELS,
    "timbre_hidden_dim": LATENT_CHANNELS,
    "timbre_fix_frame": 750,
    "in_channels": 3 * LATENT_CHANNELS,
    "patch_size": 2,
    "pool_window_size": 5,
    "fsq_dim": 64,
    "fsq_input_levels": [8, 8, 8, 5, 5, 5],
    "fsq_input_num_quantizers": 1,
    "use_sliding_window": True,
    "sliding_window": 128,
    "rope_theta": 1_000_000,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "dtype": "bfloat16",
}
_AUTOENCODER = {
    "_class_name": "AutoencoderOobleck",
    "audio_channels": 2,
    "channel_multiples": [1, 1, 1, 2, 2],
    "decoder_channels": 12,
    "decoder_input_channels": LATENT_CHANNELS,
    "downsampling_ratios": [2, 4, 4, 6, 10],
    "encoder_hidden_size": 2 * LATENT_CHANNELS,
    "sampling_rate": 48_000,
}
_TEXT_ENCODER = {
    "model_type": "qwen3",
    "architectures": ["Qwen3Model"],
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rope_theta": 1_000_000,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}


def _ensure() -> None:
    if not FOLDER.is_dir():
        FOLDER.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=FOLDER.parent))
        write(unfinished)
        try:
            unfinished.rename(FOLDER)
        except OSError:  # another process was first; its files are the same
            shutil.rmtree(unfinished)


def write(folder: Path) -> None:
    """Write both miniature models, their autoencoder and text encoder into ``folder``."""
    for variant in VARIANTS:
        _write_model(folder / f"{MODEL_PREFIX}{variant}", variant)
    _write_autoencoder(folder / AUTOENCODER_FOLDER)
    _write_text_encoder(folder / TEXT_ENCODER_FOLDER)


def _write_model(folder: Path, variant: str) -> None:
    raw = _MODEL | {"is_turbo": variant == "turbo", "model_version": variant}
    with torch.device("meta"):
        model = AceStepModel(parse_model_config(raw, folder.name))
    _write_config(folder, raw)
    _save(folder / "model.safetensors", model_shapes(model))
    silence = _noise("silence", (1, LATENT_CHANNELS, 1)) + 0.1 * _noise(
        "silence frames", (1, LATENT_CHANNELS, SILENCE_FRAMES)
    )
    torch.save(silence, folder / SILENCE_FILE)


def _write_autoencoder(folder: Path) -> None:
    with torch.device("meta"):
        autoencoder = Autoencoder(parse_autoencoder_config(_AUTOENCODER, folder.name))
    _write_config(folder, _AUTOENCODER)
    _save(folder / "diffusion_pytorch_model.safetensors", weight_norm_shapes(autoencoder))


def _write_text_encoder(folder: Path) -> None:
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = byte_tokenizer()
    raw = _TEXT_ENCODER | {"vocab_size": tokenizer.get_vocab_size()}
    with torch.device("meta"):
        model = Qwen3Model(Qwen3Config.from_dict(raw))
    _write_config(folder, raw)
    tokenizer.save(str(folder / "tokenizer.json"))
    kind = {"tokenizer_class": "Qwen2Tokenizer", "pad_token": END_OF_TEXT, "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind, indent=2))
    _save(folder / "model.safetensors", {k: tuple(v.shape) for k, v in model.state_dict().items()})


def _write_config(folder: Path, raw: dict) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(raw, indent=2))


def _save(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    tensors = {name: _weight(name, shape) for name, shape in shapes.items()}
    for name in tensors:
        if name.endswith("weight_g"):  # g = ||v||: the convolution's weight is v itself
            direction = tensors[f"{name[:-1]}v"].float()
            tensors[name] = direction.flatten(1).norm(dim=1).reshape(-1, 1, 1).bfloat16()
    save_file(tensors, file, metadata={"format": "pt"})


def _weight(name: str, shape: tuple[int, ...]) -> Tensor:
    noise = _noise(name, shape)
    if "norm" in name:
        value = 1 + 0.1 * noise
    elif name.endswith(("bias", "alpha", "beta")) or "table" in name:
        value = 0.1 * noise
    elif len(shape) > 1 and "token" not in name and "emb" not in name.rsplit(".", 2)[0]:
        value = noise / math.sqrt(math.prod(shape[1:]))
    else:
        value = noise / math.sqrt(shape[-1])
    return value.bfloat16()


def _noise(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


_ensure()
