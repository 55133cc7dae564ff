"""Trained weights to a checkpoint folder in the published layout, bf16."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from acestep.checkpoints.checkpoint import AUTOENCODER_WEIGHTS, SILENCE_FILE, published_name
from acestep.checkpoints.folders import AUTOENCODER_FOLDER, MODEL_PREFIX, TEXT_ENCODER_FOLDER
from acestep.model.autoencoder import Autoencoder
from pipeline.demo_model import autoencoding
from pipeline.demo_model.network import Network, model_config, text_config
from pipeline.demo_model.text import END_OF_TEXT


def write_autoencoder(folder: Path, autoencoder: Autoencoder) -> None:
    """The autoencoder, weight norm split."""
    part = _with_config(folder / AUTOENCODER_FOLDER, autoencoding.CONFIG)
    _save(split_weight_norm(autoencoder), part / f"{AUTOENCODER_WEIGHTS}.safetensors")


def write_model(folder: Path, variant: str, network: Network, silence: Tensor) -> None:
    """One variant of the network, and the silence latent ``[frames, c]``."""
    part = _with_config(folder / f"{MODEL_PREFIX}{variant}", model_config(variant))
    _save({published_name(k): v for k, v in network.model.state_dict().items()}, part / "model.safetensors")
    torch.save(silence.T[None].bfloat16().contiguous(), part / SILENCE_FILE)


def write_text_encoder(folder: Path, network: Network, tokenizer: Tokenizer) -> None:
    """The text encoder with its vocabulary."""
    part = _with_config(folder / TEXT_ENCODER_FOLDER, text_config(tokenizer.get_vocab_size()))
    tokenizer.save(str(part / "tokenizer.json"))
    kind = {"tokenizer_class": "Qwen2Tokenizer", "pad_token": END_OF_TEXT, "eos_token": "<|im_end|>"}
    (part / "tokenizer_config.json").write_text(json.dumps(kind, indent=2))
    _save(network.text.state_dict(), part / "model.safetensors")


def split_weight_norm(autoencoder: Autoencoder) -> dict[str, Tensor]:
    """Every convolution's weight as direction and norm, so that the loader folds the rounded weight itself."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in autoencoder.state_dict().items():
        if not name.endswith(".weight"):
            tensors[name] = tensor
            continue
        direction = tensor.bfloat16()
        norm = direction.float().flatten(1).norm(dim=1)
        direction.flatten(1)[norm == 0, 0] = 1  # a filter of zeros: any direction, times nothing
        tensors[f"{name}_v"], tensors[f"{name}_g"] = direction, norm.reshape(-1, 1, 1)
    return tensors


def size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _with_config(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    plain = {name: tensor.detach().cpu().bfloat16().contiguous() for name, tensor in tensors.items()}
    save_file(plain, file, metadata={"format": "pt"})
    file.chmod(0o644)
