"""Read safetensors files, single or sharded, by header or in full. Never reads pickles."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from acestep.checkpoints.folder_files import replacement_advice, shard_path
from acestep.checkpoints.json_files import read_json
from acestep.errors import FETCH_AGAIN, CheckpointError

if TYPE_CHECKING:  # torch takes seconds to import, and much here needs none of it
    from torch import Tensor

READ_DTYPES = ("BF16", "F16", "F32")
PICKLES = (".bin", ".ckpt", ".pth", ".pkl")
STEMS = ("model", "diffusion_pytorch_model")
MAX_LISTED = 12

Shape = tuple[int, ...]
Sizes = tuple[int | None, ...]  # None: any size


def weight_files(folder: Path, stem: str) -> list[Path]:
    """``<stem>.safetensors``, or every shard that ``<stem>.safetensors.index.json`` names.

    Raises:
        CheckpointError: a file is missing, or only pickles are there.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            reason = "has no weight_map from tensors to files"
            raise CheckpointError("damaged_weights", reason, FETCH_AGAIN, where=index)
        files = [shard_path(folder, name, index) for name in sorted(set(weight_map.values()))]
    else:
        files = [folder / f"{stem}.safetensors"]
    for file in files:
        if not file.is_file():
            pickles = sorted(p.name for p in file.parent.glob("*") if p.suffix in PICKLES)
            if pickles:
                found = ", ".join(pickles)
                raise CheckpointError(
                    "unsupported_weights",
                    f"no such file (found {found}: pickles are refused, convert to safetensors)",
                    where=file,
                )
            raise CheckpointError("missing_weights", "no such file", FETCH_AGAIN, where=file)
    return files


def weights_are_in(folder: Path) -> bool:
    """Whether a folder has complete weights under a standard name."""
    for stem in STEMS:
        try:
            weight_files(folder, stem)
        except CheckpointError:
            continue
        return True
    return False


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Open a safetensors file.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        with safe_open(file, "pt") as content:
            yield content
    except (SafetensorError, OSError) as error:
        reason = f"damaged or not a safetensors file ({error})"
        raise CheckpointError("damaged_weights", reason, replacement_advice(file), where=file) from error


def read_shapes(folder: Path, stem: str) -> dict[str, Shape]:
    """Names and shapes of all tensors, from the headers only.

    Raises:
        CheckpointError: a file is missing or damaged, or has unsupported dtypes.
    """
    shapes: dict[str, Shape] = {}
    unsupported = []
    for file in weight_files(folder, stem):
        with _opened(file) as content:
            for name in content.keys():  # noqa: SIM118 (not a mapping)
                tensor = content.get_slice(name)
                shapes[name] = tuple(tensor.get_shape())
                # Scalars, such as a LoRA's alpha, may have any dtype.
                if shapes[name] and tensor.get_dtype() not in READ_DTYPES:
                    unsupported.append(f"{name} ({tensor.get_dtype()})")
    if unsupported:
        remedy = f"convert to {', '.join(READ_DTYPES)}"
        reason = f"tensors of unsupported dtype: {_listed(unsupported)}"
        raise CheckpointError("unsupported_weights", reason, remedy, where=folder)
    return shapes


def read_metadata(folder: Path, stem: str) -> dict[str, str]:
    """Metadata in the headers of a folder's files.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    metadata: dict[str, str] = {}
    for file in weight_files(folder, stem):
        with _opened(file) as content:
            metadata.update(content.metadata() or {})
    return metadata


def read_tensors(folder: Path, stem: str) -> "dict[str, Tensor]":
    """All tensors of a folder, whose headers must have been checked."""
    from safetensors.torch import load_file

    tensors = {}
    for file in weight_files(folder, stem):
        tensors.update(load_file(file))
    return tensors


def read_tensor(folder: Path, stem: str, name: str) -> "Tensor | None":
    """One tensor of a folder, or None; the headers must have been checked."""
    for file in weight_files(folder, stem):
        with safe_open(file, "pt") as content:
            if name in content.keys():  # noqa: SIM118 (not a mapping)
                return content.get_tensor(name)
    return None


def differences(found: Mapping[str, Shape], expected: Mapping[str, Sizes], max_shapes: int = MAX_LISTED) -> str:
    """Describe missing, unexpected and mis-shaped tensors; "" if everything matches."""
    shapes = [
        f"{name} is {list(found[name])}, expected [{', '.join('any' if n is None else str(n) for n in sizes)}]"
        for name, sizes in sorted(expected.items())
        if name in found and not _fits(found[name], sizes)
    ]
    kinds = (
        ("missing", sorted(expected.keys() - found.keys()), MAX_LISTED),
        ("unexpected", sorted(found.keys() - expected.keys()), MAX_LISTED),
        ("of another shape", shapes, max_shapes),
    )
    return "; ".join(
        f"{len(names)} {kind}: {_listed(names, max_entries)}" for kind, names, max_entries in kinds if names
    )


def check_shapes(found: Mapping[str, Shape], expected: Mapping[str, Sizes], source: Path) -> None:
    """Compare names and shapes.

    Raises:
        CheckpointError: lists missing, unexpected and mis-shaped tensors.
    """
    problems = differences(found, expected)
    if problems:
        raise CheckpointError("mismatched_weights", "tensors do not fit the configuration", problems, where=source)


def _fits(shape: Shape, sizes: Sizes) -> bool:
    return len(shape) == len(sizes) and all(
        size in (None, found) for found, size in zip(shape, sizes, strict=True)
    )


def check_sizes(sizes: Iterable[tuple[str, int]], layers: int, found: Mapping[str, Shape], source: Path) -> None:
    """Check the plausibility of a configuration against the tensors before building the model.

    Args:
        sizes: names and values of sizes that are dimensions of a tensor.
        layers: total number of layers, each of which has tensors of its own.

    Raises:
        CheckpointError: there are fewer tensors than layers, or a size exceeds all dimensions.
    """
    if layers > len(found):
        remedy = "the two are of different models, fetch both again"
        reason = f"the configuration has {layers} layers and the files {len(found)} tensors"
        raise CheckpointError("mismatched_weights", reason, remedy, where=source)
    largest = max((size for shape in found.values() for size in shape), default=0)
    for name, size in sizes:
        if size > largest:
            remedy = "the configuration and the files are of different models, fetch both again"
            raise CheckpointError(
                "mismatched_weights",
                f"is {size} and the largest dimension of a tensor {largest}",
                remedy,
                name,
                where=source,
            )


@contextmanager
def described_by(source: Path, what: str) -> Iterator[None]:
    """Build modules on the meta device from the sizes in a file.

    Raises:
        CheckpointError: replaces any error that the libraries raise for invalid sizes.
    """
    import torch

    try:
        with torch.device("meta"):
            yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            "damaged_weights", f"describes no {what} ({reason})", FETCH_AGAIN, where=source
        ) from error


def _listed(entries: list[str], max_entries: int = MAX_LISTED) -> str:
    more = f", and {len(entries) - max_entries} more" if len(entries) > max_entries else ""
    return ", ".join(entries[:max_entries]) + more
