"""Open a checkpoint in the published (original) layout: find its folders, check every tensor, build modules.

Only safetensors files and ``silence_latent.pt`` (through ``weights_only=True``) are read; pickles never are.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from acestep.autoencoder import Autoencoder, fold_weight_norm, weight_norm_shapes
from acestep.config import parse_autoencoder_config, parse_model_config, read_json
from acestep.errors import CheckpointError
from acestep.model import AceStepModel

MODEL_PREFIX = "acestep-v15-"
AUTOENCODER_FOLDER = "vae"
TEXT_ENCODER_FOLDER = "Qwen3-Embedding-0.6B"
SILENCE_FILE = "silence_latent.pt"
READ_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MOST_LISTED = 12
ModuleT = TypeVar("ModuleT", bound=nn.Module)

# The published file wraps both patch convolutions in a list with two layout changes around them.
_RENAMES = (("decoder.proj_in.1.", "decoder.proj_in."), ("decoder.proj_out.1.", "decoder.proj_out."))


@dataclass(frozen=True)
class CheckpointFolders:
    """Where the three parts of a checkpoint lie."""

    model: Path
    autoencoder: Path
    text_encoder: Path


def locate(root: Path, variant: str | None = None) -> CheckpointFolders:
    """Find the parts of a checkpoint.

    Args:
        root: a bundle (folders ``acestep-v15-<variant>``, ``vae``, ``Qwen3-Embedding-0.6B``), or one model
            folder whose parent or itself holds the other two.
        variant: which model of a bundle, such as "turbo"; needed only where there are several.

    Raises:
        CheckpointError: a part is missing, or the variant is unknown or ambiguous.
    """
    if not root.is_dir():
        raise CheckpointError(f"{root}: no such folder; give a checkpoint folder or a model name")
    if (root / "model_index.json").is_file():
        raise CheckpointError(f"{root}: the diffusers layout is not supported yet; give the original checkpoint")
    model = root if (root / "config.json").is_file() else _variant_folder(root, variant)
    return CheckpointFolders(model, _beside(model, AUTOENCODER_FOLDER), _beside(model, TEXT_ENCODER_FOLDER))


def _variant_folder(root: Path, variant: str | None) -> Path:
    found = {path.name.removeprefix(MODEL_PREFIX): path for path in sorted(root.glob(f"{MODEL_PREFIX}*"))}
    if not found:
        raise CheckpointError(f"{root}: holds neither config.json nor a folder {MODEL_PREFIX}<variant>")
    if variant is None:
        if len(found) > 1:
            raise CheckpointError(
                f"{root}: holds several models ({', '.join(found)}); name one with variant=, or give its folder"
            )
        return next(iter(found.values()))
    wanted = variant.removeprefix(MODEL_PREFIX).replace("_", "-")
    if wanted not in found:
        raise CheckpointError(f"{root}: has no variant {variant!r}; it holds {', '.join(found)}")
    return found[wanted]


def _beside(model: Path, name: str) -> Path:
    for folder in (model / name, model.parent / name):
        if folder.is_dir():
            return folder
    raise CheckpointError(f"{model}: no folder {name} in it or beside it; the checkpoint is incomplete")


def read_tensors(folder: Path, stem: str) -> dict[str, Tensor]:
    """All tensors of ``<stem>.safetensors``, or of every shard that ``<stem>.safetensors.index.json`` names.

    Raises:
        CheckpointError: a file is missing, damaged, holds unexpected dtypes, or only pickles are there.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{index}: has no weight_map")
        files = [folder / name for name in sorted(set(weight_map.values()))]
    else:
        files = [folder / f"{stem}.safetensors"]
    tensors: dict[str, Tensor] = {}
    for file in files:
        if not file.is_file():
            pickles = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".ckpt", ".pth")]
            hint = f" (found {', '.join(pickles)}: pickles are refused, convert to safetensors)" if pickles else ""
            raise CheckpointError(f"{file}: no such file{hint}; is the download complete?")
        try:
            tensors.update(load_file(file))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: damaged or not a safetensors file ({error})") from error
    strange = {name: t.dtype for name, t in tensors.items() if t.dtype not in READ_DTYPES}
    if strange:
        raise CheckpointError(f"{folder}: tensors of unsupported dtype: {_listed(strange)}")
    return tensors


def check_shapes(found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], source: object) -> None:
    """Compare names and shapes, and report everything that differs at once.

    Raises:
        CheckpointError: listing missing, unexpected and mis-shaped tensors.
    """
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    shapes = [
        f"{name} is {list(found[name].shape)}, expected {list(shape)}"
        for name, shape in sorted(expected.items())
        if name in found and tuple(found[name].shape) != tuple(shape)
    ]
    problems = [
        f"{len(names)} {kind}: {_listed(names)}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise CheckpointError(f"{source}: tensors do not fit the configuration; " + "; ".join(problems))


def _listed(names: list[str] | dict[str, torch.dtype]) -> str:
    entries = [f"{k} ({v})" for k, v in names.items()] if isinstance(names, dict) else names
    more = f", and {len(entries) - MOST_LISTED} more" if len(entries) > MOST_LISTED else ""
    return ", ".join(entries[:MOST_LISTED]) + more


def model_shapes(model: AceStepModel) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published model file, from a model that may live on the meta device."""
    shapes = {}
    for name, tensor in model.state_dict().items():
        for published, ours in _RENAMES:
            if name.startswith(ours):
                name = published + name.removeprefix(ours)
        shapes[name] = tuple(tensor.shape)
    return shapes


def load_model(folder: Path, device: torch.device, dtype: torch.dtype) -> AceStepModel:
    """The network of one model folder, checked tensor by tensor.

    Raises:
        CheckpointError: see ``read_tensors`` and ``check_shapes``.
    """
    config = parse_model_config(read_json(folder / "config.json"), folder.name)
    model = _on_meta(lambda: AceStepModel(config))
    tensors = read_tensors(folder, "model")
    check_shapes(tensors, model_shapes(model), folder)
    renamed = {}
    for name, tensor in tensors.items():
        for published, ours in _RENAMES:
            if name.startswith(published):
                name = ours + name.removeprefix(published)
        renamed[name] = tensor
    model.load_state_dict(renamed, assign=True)
    return model.cast(dtype).to(device).eval().requires_grad_(False)


def load_autoencoder(folder: Path, device: torch.device, dtype: torch.dtype) -> Autoencoder:
    """The autoencoder of one folder, weight norm folded.

    Raises:
        CheckpointError: see ``read_tensors`` and ``check_shapes``.
    """
    config = parse_autoencoder_config(read_json(folder / "config.json"), folder.name)
    autoencoder = _on_meta(lambda: Autoencoder(config))
    tensors = {
        re.sub(r"parametrizations\.weight\.original([01])$", lambda m: f"weight_{'gv'[int(m[1])]}", name): tensor
        for name, tensor in read_tensors(folder, "diffusion_pytorch_model").items()
    }
    check_shapes(tensors, weight_norm_shapes(autoencoder), folder)
    autoencoder.load_state_dict(fold_weight_norm(tensors), assign=True)
    return autoencoder.to(device=device, dtype=dtype).eval().requires_grad_(False)


def load_silence(folder: Path, channels: int) -> Tensor:
    """The silence latent ``[frames, channels]``, fp32.

    Raises:
        CheckpointError: the file is missing, is not a bare tensor, or has another width.
    """
    file = folder / SILENCE_FILE
    try:
        silence = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: no such file; is the download complete?") from error
    except Exception as error:  # torch reports damage by many types
        raise CheckpointError(f"{file}: not readable as a plain tensor ({error})") from error
    if not isinstance(silence, Tensor) or silence.dim() != 3 or silence.shape[:2] != (1, channels):
        shape = list(silence.shape) if isinstance(silence, Tensor) else type(silence).__name__
        raise CheckpointError(f"{file}: expected a tensor [1, {channels}, frames], found {shape}")
    return silence[0].T.float().contiguous()


def fingerprint(folders: CheckpointFolders) -> str:
    """A digest of everything in a checkpoint that determines its output: weights, sizes, vocabulary."""
    digest = hashlib.sha256()
    for folder in (folders.model, folders.autoencoder, folders.text_encoder):
        for file in sorted(folder.iterdir()):
            if file.suffix == ".safetensors" or file.name in (SILENCE_FILE, "tokenizer.json"):
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
            elif file.name == "config.json":
                digest.update(json.dumps(read_json(file), sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _on_meta(build: Callable[[], ModuleT]) -> ModuleT:
    with torch.device("meta"):
        return build()
