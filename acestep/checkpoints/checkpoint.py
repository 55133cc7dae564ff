"""Check and load a checkpoint in the published (original) or the diffusers layout.

Reads only safetensors files and ``silence_latent.pt`` (with ``weights_only=True``), never other pickles.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from acestep.checkpoints import diffusers_layout, original_layout
from acestep.checkpoints.folders import CheckpointFolders
from acestep.checkpoints.json_files import read_json
from acestep.checkpoints.lora import merge_adapter, open_adapter
from acestep.checkpoints.original_layout import SILENCE_FILE as SILENCE_FILE
from acestep.checkpoints.qwen3 import WEIGHTS as QWEN3_WEIGHTS
from acestep.checkpoints.qwen3 import deciding, read_config, tokenizer_file
from acestep.checkpoints.safetensors_files import (
    Shape,
    Sizes,
    check_shapes,
    check_sizes,
    described_by,
    read_shapes,
    read_tensors,
    weight_files,
)
from acestep.errors import FETCH_AGAIN, CheckpointError
from acestep.model.ace_step import AceStepModel
from acestep.model.autoencoder import Autoencoder, fold_weight_norm, weight_norm_shapes
from acestep.model.autoencoder_cpu import lay_out
from acestep.model.config import AutoencoderConfig, parse_autoencoder_config, parse_model_config, sizes_of

AUTOENCODER_WEIGHTS = "diffusion_pytorch_model"

# The published file has both patch convolutions in a Sequential, at index 1.
_RENAMES = (("decoder.proj_in.1.", "decoder.proj_in."), ("decoder.proj_out.1.", "decoder.proj_out."))


class Layout(Protocol):
    """Functions of a layout of model folders; implemented by modules."""

    WEIGHTS: str  # stem of the weight files

    def model_config(self, folder: Path) -> dict[str, Any]: ...
    def file_name(self, published: str) -> str: ...
    def expected_tensors(self, published: Mapping[str, Shape], channels: int) -> dict[str, Sizes]: ...
    def tensor_shapes(self, folder: Path) -> dict[str, Shape]: ...
    def tensors(self, folder: Path) -> dict[str, Tensor]: ...
    def silence(self, folder: Path, channels: int) -> Tensor: ...
    def module_folders(self, folder: Path) -> list[Path]: ...


def layout_of(folder: Path) -> Layout:
    return diffusers_layout if diffusers_layout.is_diffusers(folder) else original_layout


def published_name(name: str) -> str:
    """Name of a tensor in a published model file."""
    for published, ours in _RENAMES:
        if name.startswith(ours):
            return published + name.removeprefix(ours)
    return name


def model_shapes(model: AceStepModel) -> dict[str, Shape]:
    """Names and shapes of a published model file, from a model that may be on the meta device."""
    return {published_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def open_model(folder: Path, name: str = "") -> AceStepModel:
    """Build a network on the meta device and check the names and shapes of all tensors in its folder.

    Args:
        name: name of the model; default is that of the folder.

    Raises:
        CheckpointError: the configuration or the files do not match; see ``read_shapes`` and ``check_shapes``.
    """
    layout = layout_of(folder)
    config = parse_model_config(layout.model_config(folder), name or folder.name)
    found = layout.tensor_shapes(folder)
    layers = config.decoder_layers + config.lyric_layers + config.timbre_layers + 2 * config.pooler_layers
    check_sizes(sizes_of(config), layers, found, folder)
    with described_by(folder, "model"):
        model = AceStepModel(config)
    expected = layout.expected_tensors(model_shapes(model), config.latent_channels)
    check_shapes(found, expected, folder)
    return model


def load_model(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    name: str = "",
    adapter: Path | None = None,
    adapter_scale: float = 1.0,
) -> AceStepModel:
    """Load a network for inference.

    Args:
        adapter: LoRA (see ``open_adapter``) to merge into the weights, times ``adapter_scale``.

    Raises:
        CheckpointError: see ``open_model`` and ``open_adapter``.
        RequestError: the scale is not between 0 and 1.
    """
    model = open_model(folder, name)
    layout = layout_of(folder)
    tensors = layout.tensors(folder)
    ours = {name: tensors[layout.file_name(published_name(name))] for name in model.state_dict()}
    model.load_state_dict(ours, assign=True)
    if adapter is not None:
        merge_adapter(model.decoder, open_adapter(adapter), adapter_scale, dtype)
    return model.cast(dtype).to(device).eval().requires_grad_(False)


def open_autoencoder(folder: Path) -> Autoencoder:
    """Build an autoencoder on the meta device and check the names and shapes of all tensors in its folder.

    Raises:
        CheckpointError: the configuration or the file does not match.
    """
    config = _autoencoder_config(folder)
    shapes = {_weight_norm_name(n): s for n, s in read_shapes(folder, AUTOENCODER_WEIGHTS).items()}
    check_sizes(sizes_of(config), 2 * len(config.ratios), shapes, folder)
    with described_by(folder / "config.json", "autoencoder"):
        autoencoder = Autoencoder(config)
    check_shapes(shapes, weight_norm_shapes(autoencoder), folder)
    return autoencoder


def load_autoencoder(folder: Path, device: torch.device, dtype: torch.dtype) -> Autoencoder:
    """Load an autoencoder, with weight norm folded.

    Raises:
        CheckpointError: see ``open_autoencoder``.
    """
    autoencoder = open_autoencoder(folder)
    tensors = {_weight_norm_name(n): t for n, t in read_tensors(folder, AUTOENCODER_WEIGHTS).items()}
    autoencoder.load_state_dict(fold_weight_norm(tensors), assign=True)
    autoencoder = autoencoder.to(device=device, dtype=dtype).eval().requires_grad_(False)
    if device.type == "cpu":
        lay_out(autoencoder)
    return autoencoder


def _autoencoder_config(folder: Path) -> AutoencoderConfig:
    return parse_autoencoder_config(read_json(folder / "config.json"), folder.name)


def _weight_norm_name(name: str) -> str:
    """Translate ``parametrizations`` names of newer torch versions: original0 is g, original1 is v."""
    return re.sub(r"parametrizations\.weight\.original([01])$", lambda m: f"weight_{'gv'[int(m[1])]}", name)


def load_silence(folder: Path, channels: int) -> Tensor:
    """Load the silence latent ``[frames, channels]`` of a model folder, fp32.

    Raises:
        CheckpointError: missing, not a plain tensor, of another width, without frames or with invalid values.
    """
    found = layout_of(folder).silence(folder, channels)
    silence = found.float().contiguous()
    if not found.is_floating_point() or not len(silence) or not silence.isfinite().all():
        raise CheckpointError(
            "damaged_weights",
            f"the silence latent has {len(silence)} frames of {found.dtype}, expected finite "
            "fractional numbers and a frame at least",
            FETCH_AGAIN,
            where=folder,
        )
    return silence


def fingerprint(folders: CheckpointFolders, adapter: Path | None = None, adapter_scale: float = 1.0) -> str:
    """Digest of everything that determines a checkpoint's output: weights, sizes, vocabulary, adapter.

    Raises:
        CheckpointError: a file is missing.
    """
    layout = layout_of(folders.model)
    config = parse_model_config(layout.model_config(folders.model), folders.name)
    parts = [(folder, layout.WEIGHTS) for folder in layout.module_folders(folders.model)]
    digest = hashlib.sha256(repr((config, _autoencoder_config(folders.autoencoder))).encode())
    for folder, stem in [*parts, (folders.autoencoder, AUTOENCODER_WEIGHTS)]:
        _digest_weights(digest, folder, stem)
    digest.update(load_silence(folders.model, config.latent_channels).numpy().tobytes())
    digest.update(folder_fingerprint(folders.text_encoder).encode())
    if adapter is not None and adapter_scale:
        lora = open_adapter(adapter)
        digest.update(repr((*lora.identity(), float(adapter_scale))).encode())
        _digest_weights(digest, lora.files.folder, lora.files.stem)
    return digest.hexdigest()[:16]


def folder_fingerprint(folder: Path) -> str:
    """Digest of a Qwen3 folder's weights, sizes and vocabulary.

    Raises:
        CheckpointError: a file is missing, or the folder holds another kind of model.
    """
    digest = hashlib.sha256(repr(deciding(read_config(folder))).encode())
    _digest_weights(digest, folder, QWEN3_WEIGHTS)
    digest.update(_file_digest(tokenizer_file(folder)))
    return digest.hexdigest()[:16]


def _digest_weights(digest: Any, folder: Path, stem: str) -> None:
    for file in weight_files(folder, stem):
        digest.update(_file_digest(file))


def _file_digest(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
