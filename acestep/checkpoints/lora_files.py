"""Find the files of a LoRA adapter: a folder, a single file, or a folder inside a trainer's run folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.checkpoints.json_files import read_json
from acestep.checkpoints.safetensors_files import PICKLES, read_metadata
from acestep.errors import CheckpointError
from acestep.parameters.values import from_json

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model"  # PEFT's name
DIFFUSERS_WEIGHTS = "pytorch_lora_weights"
LOKR_FILE = "lokr_weights.safetensors"
SUFFIX = ".safetensors"
DIFFUSERS_METADATA = "lora_adapter_metadata"
INSIDE = ("*", "*/*", "*/*/*")  # in a run folder: adapter, final/adapter, checkpoints/epoch_10/adapter
MAX_NAMED = 8
NO_LOKR = "is a LoKr adapter, which is not supported; give a LoRA, or a checkpoint with the LoKr merged"


@dataclass(frozen=True)
class AdapterFiles:
    """The files of one adapter.

    path: folder or file, for messages.
    folder, stem: location of the weights, ``<folder>/<stem>.safetensors``.
    has_config: whether there is a PEFT configuration in the folder.
    """

    path: Path
    folder: Path
    stem: str
    has_config: bool = False

    def config(self) -> dict[str, Any] | None:
        """PEFT's configuration, from its file or from the weights' header (diffusers); None without one.

        Raises:
            CheckpointError: it cannot be read.
        """
        if self.has_config:
            return read_json(self.folder / ADAPTER_CONFIG)
        header = read_metadata(self.folder, self.stem).get(DIFFUSERS_METADATA)
        if header is None:
            return None
        try:
            values = from_json(header)
        except ValueError as error:
            raise CheckpointError(
                "damaged_weights",
                f"its header's {DIFFUSERS_METADATA} is no JSON ({error})",
                where=f"adapter {self.path}",
            ) from error
        if not isinstance(values, dict):
            reason = f"its header's {DIFFUSERS_METADATA} is no JSON object"
            raise CheckpointError("damaged_weights", reason, where=f"adapter {self.path}")
        return {key.removeprefix("transformer."): value for key, value in values.items()}


def find_adapter_files(path: Path) -> AdapterFiles:
    """Find the adapter at a path.

    Args:
        path: a ``.safetensors`` file, a folder with one, or a folder that contains such a folder.

    Raises:
        CheckpointError: there is none, there are several, or it is a LoKr or a pickle.
    """
    if path.is_file():
        return _of_file(path)
    if not path.is_dir():
        remedy = "give a LoRA adapter or a hub id"
        raise CheckpointError("missing_weights", "no such file or folder", remedy, where=f"adapter {path}")
    found = _of_folder(path)
    if found is not None:
        return found
    inside = _folders_inside(path) or _weights(path)
    if len(inside) == 1:
        return find_adapter_files(inside[0])
    if inside:
        named = ", ".join(str(one.relative_to(path)) for one in inside[:MAX_NAMED])
        more = f" and {len(inside) - MAX_NAMED} more" if len(inside) > MAX_NAMED else ""
        remedy = f"give the path of one, such as {inside[0]}"
        reason = f"holds {len(inside)} adapters, {named}{more}"
        raise CheckpointError("unknown_model", reason, remedy, where=f"adapter {path}")
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in (*PICKLES, ".pt"))
    if pickles:
        raise CheckpointError("unsupported_weights", _no_pickle(pickles[0]), where=f"adapter {path}")
    remedy = f"one holds {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}{SUFFIX}, or {DIFFUSERS_WEIGHTS}{SUFFIX}"
    raise CheckpointError("missing_weights", "no LoRA in this folder", remedy, where=f"adapter {path}")


def _of_file(file: Path) -> AdapterFiles:
    if file.name == ADAPTER_CONFIG:
        return find_adapter_files(file.parent)
    if file.name == LOKR_FILE:
        raise CheckpointError("unsupported_weights", NO_LOKR, where=f"adapter {file}")
    if file.suffix in (*PICKLES, ".pt"):
        raise CheckpointError("unsupported_weights", _no_pickle(file.name), where=f"adapter {file}")
    if file.suffix != SUFFIX:
        remedy = "give a LoRA adapter's file or folder"
        raise CheckpointError("damaged_weights", f"not a {SUFFIX} file", remedy, where=f"adapter {file}")
    return AdapterFiles(file, file.parent, file.stem, _configured(file))


def _of_folder(folder: Path) -> AdapterFiles | None:
    """The adapter whose files are directly in a folder under standard names, or None."""
    if (folder / ADAPTER_CONFIG).is_file():
        others = _weights(folder)
        renamed = len(others) == 1 and not (folder / f"{ADAPTER_WEIGHTS}{SUFFIX}").exists()
        return AdapterFiles(folder, folder, others[0].stem if renamed else ADAPTER_WEIGHTS, True)
    if (folder / LOKR_FILE).is_file():
        raise CheckpointError("unsupported_weights", f"{LOKR_FILE} {NO_LOKR}", where=f"adapter {folder}")
    if (folder / f"{ADAPTER_WEIGHTS}{SUFFIX}").is_file():
        remedy = f"fetch it again, or give the path of {ADAPTER_WEIGHTS}{SUFFIX} itself to take alpha = rank"
        reason = f"{ADAPTER_CONFIG} is missing, which says how strong the adapter is"
        raise CheckpointError("missing_weights", reason, remedy, where=f"adapter {folder}")
    if (folder / f"{DIFFUSERS_WEIGHTS}{SUFFIX}").is_file():
        return AdapterFiles(folder, folder, DIFFUSERS_WEIGHTS)
    return None


def _folders_inside(folder: Path) -> list[Path]:
    names = (ADAPTER_CONFIG, f"{DIFFUSERS_WEIGHTS}{SUFFIX}", LOKR_FILE)
    return sorted({file.parent for deep in INSIDE for name in names for file in folder.glob(f"{deep}/{name}")})


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def _configured(file: Path) -> bool:
    """Whether the PEFT configuration in the folder of a file belongs to this file."""
    own = file.stem == ADAPTER_WEIGHTS or _weights(file.parent) == [file]
    return own and (file.parent / ADAPTER_CONFIG).is_file()


def _no_pickle(name: str) -> str:
    return f"{name} is a pickle, which is refused; convert it to {SUFFIX}"
