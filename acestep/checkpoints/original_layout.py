"""The published (original) layout of a model folder: config.json, model.safetensors, silence_latent.pt."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acestep.checkpoints.json_files import read_json
from acestep.checkpoints.safetensors_files import Shape, Sizes, read_shapes, read_tensors
from acestep.errors import FETCH_AGAIN, CheckpointError

SILENCE_FILE = "silence_latent.pt"
WEIGHTS = "model"


def file_name(published: str) -> str:
    """The published name of a tensor, unchanged."""
    return published


def model_config(folder: Path) -> dict[str, Any]:
    """The parsed config.json.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    return read_json(folder / "config.json")


def expected_tensors(published: Mapping[str, Shape], channels: int) -> dict[str, Sizes]:
    return dict(published)


def tensor_shapes(folder: Path) -> dict[str, Shape]:
    """Names and shapes of the file's tensors.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    return read_shapes(folder, WEIGHTS)


def tensors(folder: Path) -> dict[str, Tensor]:
    return read_tensors(folder, WEIGHTS)


def silence(folder: Path, channels: int) -> Tensor:
    """The silence latent ``[frames, channels]``, stored channels first in fp32.

    Raises:
        CheckpointError: the file is missing, is not a plain tensor, or has another width.
    """
    file = folder / SILENCE_FILE
    try:
        if file.exists() and not file.is_file():  # reading a pipe would block
            raise CheckpointError("missing_weights", "is no file", FETCH_AGAIN, where=file)
        found = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError("missing_weights", "no such file", FETCH_AGAIN, where=file) from error
    except CheckpointError:
        raise
    except Exception as error:  # torch raises many types for damaged files
        raise CheckpointError(
            "damaged_weights", f"not readable as a plain tensor ({type(error).__name__})", FETCH_AGAIN, where=file
        ) from error
    if not isinstance(found, Tensor) or found.dim() != 3 or found.shape[:2] != (1, channels) or found.is_sparse:
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        reason = f"expected a tensor [1, {channels}, frames], found {shape}"
        raise CheckpointError("damaged_weights", reason, where=file)
    return found[0].T


def module_folders(folder: Path) -> list[Path]:
    return [folder]
