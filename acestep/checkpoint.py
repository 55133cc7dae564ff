"""Open a checkpoint in the published (original) layout: find its folders, check every tensor, build modules.

Only safetensors files and ``silence_latent.pt`` (through ``weights_only=True``) are read; pickles never are.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from acestep.autoencoder import Autoencoder, fold_weight_norm, weight_norm_shapes
from acestep.config import parse_autoencoder_config, parse_model_config, read_json
from acestep.errors import CheckpointError
from acestep.model import AceStepModel

MODEL_PREFIX = "acestep-v15-"
AUTOENCODER_FOLDER = "vae"
TEXT_ENCODER_FOLDER = "Qwen3-Embedding-0.6B"
SILENCE_FILE = "silence_latent.pt"
READ_DTYPES = ("BF16", "F16", "F32")
MOST_LISTED = 12

# The published file wraps both patch convolutions in a list with two layout changes around them.
_RENAMES = (("decoder.proj_in.1.", "decoder.proj_in."), ("decoder.proj_out.1.", "decoder.proj_out."))


@dataclass(frozen=True)
class CheckpointFolders:
    """Where the three parts of a checkpoint lie.

    name: what the model is called, where its folder's name says nothing (a hub cache names folders by hash).
    """

    model: Path
    autoencoder: Path
    text_encoder: Path
    name: str


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
    model = model_folder(root, variant)
    return CheckpointFolders(
        model, _beside(model, AUTOENCODER_FOLDER), _beside(model, TEXT_ENCODER_FOLDER), model.name
    )


def model_folder(root: Path, variant: str | None = None) -> Path:
    """The folder of the network itself: ``root``, or the one of ``variant`` in it.

    Raises:
        CheckpointError: there is none, or the variant is unknown or ambiguous.
    """
    return root if (root / "config.json").is_file() else _variant_folder(root, variant)


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


def weight_files(folder: Path, stem: str) -> list[Path]:
    """``<stem>.safetensors``, or every shard that ``<stem>.safetensors.index.json`` names.

    Raises:
        CheckpointError: a file is missing, or only pickles are there.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{index}: has no weight_map")
        files = [folder / name for name in sorted(set(weight_map.values()))]
    else:
        files = [folder / f"{stem}.safetensors"]
    for file in files:
        if not file.is_file():
            pickles = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".ckpt", ".pth")]
            found = (
                f" (found {', '.join(pickles)}: pickles are refused, convert to safetensors)" if pickles else ""
            )
            raise CheckpointError(f"{file}: no such file{found}; is the download complete?")
    return files


def read_shapes(folder: Path, stem: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors, from the files' headers alone.

    Raises:
        CheckpointError: a file is missing or damaged, or holds unexpected dtypes.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    strange = []
    for file in weight_files(folder, stem):
        try:
            with safe_open(file, "pt") as content:
                for name in content.keys():  # noqa: SIM118 (not a mapping)
                    tensor = content.get_slice(name)
                    shapes[name] = tuple(tensor.get_shape())
                    if tensor.get_dtype() not in READ_DTYPES:
                        strange.append(f"{name} ({tensor.get_dtype()})")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: damaged or not a safetensors file ({error})") from error
    if strange:
        raise CheckpointError(f"{folder}: tensors of unsupported dtype: {_listed(strange)}")
    return shapes


def read_tensors(folder: Path, stem: str) -> dict[str, Tensor]:
    """All tensors of a folder whose header was read before."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder, stem):
        tensors.update(load_file(file))
    return tensors


def check_shapes(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], source: Path
) -> None:
    """Compare names and shapes, and report everything that differs at once.

    Raises:
        CheckpointError: listing missing, unexpected and mis-shaped tensors.
    """
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    shapes = [
        f"{name} is {list(found[name])}, expected {list(shape)}"
        for name, shape in sorted(expected.items())
        if name in found and found[name] != shape
    ]
    problems = [
        f"{len(names)} {kind}: {_listed(names)}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise CheckpointError(f"{source}: tensors do not fit the configuration; " + "; ".join(problems))


def _listed(entries: list[str]) -> str:
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


def open_model(folder: Path, name: str = "") -> AceStepModel:
    """The network of one model folder without its weights (meta device), its files checked tensor by tensor.

    Args:
        name: what the model is called, if not as its folder.

    Raises:
        CheckpointError: the configuration or the files do not fit; see ``read_shapes`` and ``check_shapes``.
    """
    config = parse_model_config(read_json(folder / "config.json"), name or folder.name)
    with torch.device("meta"):
        model = AceStepModel(config)
    check_shapes(read_shapes(folder, "model"), model_shapes(model), folder)
    return model


def load_model(folder: Path, device: torch.device, dtype: torch.dtype, name: str = "") -> AceStepModel:
    """The network of one model folder, ready to run.

    Raises:
        CheckpointError: see ``open_model``.
    """
    model = open_model(folder, name)
    tensors = {}
    for name, tensor in read_tensors(folder, "model").items():
        for published, ours in _RENAMES:
            if name.startswith(published):
                name = ours + name.removeprefix(published)
        tensors[name] = tensor
    model.load_state_dict(tensors, assign=True)
    return model.cast(dtype).to(device).eval().requires_grad_(False)


def open_autoencoder(folder: Path) -> Autoencoder:
    """The autoencoder of one folder without its weights (meta device), its file checked tensor by tensor.

    Raises:
        CheckpointError: the configuration or the file does not fit.
    """
    config = parse_autoencoder_config(read_json(folder / "config.json"), folder.name)
    with torch.device("meta"):
        autoencoder = Autoencoder(config)
    shapes = {_weight_norm_name(n): s for n, s in read_shapes(folder, "diffusion_pytorch_model").items()}
    check_shapes(shapes, weight_norm_shapes(autoencoder), folder)
    return autoencoder


def load_autoencoder(folder: Path, device: torch.device, dtype: torch.dtype) -> Autoencoder:
    """The autoencoder of one folder, weight norm folded.

    Raises:
        CheckpointError: see ``open_autoencoder``.
    """
    autoencoder = open_autoencoder(folder)
    tensors = {_weight_norm_name(n): t for n, t in read_tensors(folder, "diffusion_pytorch_model").items()}
    autoencoder.load_state_dict(fold_weight_norm(tensors), assign=True)
    return autoencoder.to(device=device, dtype=dtype).eval().requires_grad_(False)


def _weight_norm_name(name: str) -> str:
    """The classic name of a tensor that newer torch files under ``parametrizations``: g is 0, v is 1."""
    return re.sub(r"parametrizations\.weight\.original([01])$", lambda m: f"weight_{'gv'[int(m[1])]}", name)


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
