"""What the replay cases share: the golden folder, lazily loaded parts, and one way to compare."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from acestep.checkpoints.checkpoint import load_autoencoder, load_model, load_silence
from acestep.checkpoints.folders import CheckpointFolders
from acestep.handler import AceStepHandler
from acestep.language.text_encoder import TextEncoder
from acestep.model.autoencoder import Autoencoder

CPU = torch.device("cpu")
EXACT = 0.0
# Half of the digits that fp32 carries, 3.5e-4 of a tensor's largest value. Rounding alone takes fewer: over five
# instruction sets and both sets of vectors at most 8.7e-5 (audio to audio over twelve guided steps, where the
# reference's own distance from float64 is as large), and 3e-5 in a single network. What it has to catch is in
# ``test_mutations.py``.
ROUNDING = torch.finfo(torch.float32).eps ** 0.5


@dataclass(frozen=True)
class Case:
    """One comparison; ``difference`` runs it and is None where the feature does not exist yet."""

    name: str
    tolerance: float
    difference: Callable[[], float] | None


class Golden:
    """A folder of reference vectors."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.vectors = folder / "vectors"
        self.handler = cache(self._handler)
        self.tensors = cache(self._tensors)

    @cached_property
    def configs(self) -> dict[Path, dict[str, Any]]:
        """The parsed config.json of every checkpoint folder."""
        found = sorted((self.folder / "checkpoints").glob("*/config.json"))
        return {file.parent: json.loads(file.read_text()) for file in found}

    def of_kind(self, key: str, value: str) -> Path | None:
        """The first checkpoint folder whose config has ``key`` = ``value``."""
        return next((folder for folder, raw in self.configs.items() if raw.get(key) == value), None)

    def model_folder(self, name: str) -> Path | None:
        """The model folder whose name ends in ``name`` (underscores and hyphens are the same)."""
        wanted = name.replace("_", "-")
        models = [f for f, raw in self.configs.items() if raw.get("model_type") == "acestep"]
        matching = [f for f in models if f.name.replace("_", "-").endswith(wanted)]
        return min(matching, key=lambda f: len(f.name), default=None)

    def named(self, pattern: str) -> list[tuple[str, Path]]:
        """Vector files ``pattern`` with one ``*``, as (what the star stands for, model folder)."""
        head, tail = pattern.split("*")
        stars = [f.name.removeprefix(head).removesuffix(tail) for f in sorted(self.vectors.glob(pattern))]
        return [(star, folder) for star in stars if (folder := self.model_folder(star)) is not None]

    @cached_property
    def autoencoder(self) -> Autoencoder | None:
        folder = self.of_kind("_class_name", "AutoencoderOobleck")
        return None if folder is None else load_autoencoder(folder, CPU, torch.float32)

    @cached_property
    def text_encoder(self) -> TextEncoder | None:
        folder = self.of_kind("model_type", "qwen3")
        return None if folder is None else TextEncoder(folder, CPU, torch.float32)

    def _handler(self, folder: Path) -> AceStepHandler:
        """The model of one folder with whatever other parts the golden folder has."""
        model = load_model(folder, CPU, torch.float32)
        silence = load_silence(folder, model.config.latent_channels)
        with torch.inference_mode():
            null = model.decoder.null_cross_attention(model.null_condition_emb)
        folders = CheckpointFolders(folder, folder, folder, folder.name)
        return AceStepHandler(
            folders, model, self.autoencoder, self.text_encoder, silence, null, CPU, torch.float32
        )

    def _tensors(self, name: str) -> dict[str, Tensor]:
        file = self.vectors / f"{name}.safetensors"
        return load_file(file) if file.is_file() else {}

    def has(self, file: str) -> bool:
        return (self.vectors / file).is_file()

    def settings(self, name: str) -> dict[str, Any]:
        """The settings of each case of a vector file: of its JSON file, else of its metadata."""
        return self.json(name) if self.has(f"{name}.json") else self.metadata(name)

    def json(self, name: str) -> Any:
        return json.loads((self.vectors / f"{name}.json").read_text())

    def metadata(self, name: str) -> dict[str, Any]:
        """The settings a vector file carries, parsed."""
        with safe_open(self.vectors / f"{name}.safetensors", "pt") as file:
            raw = file.metadata() or {}
        return {key: json.loads(value) if value[:1] in '{["' else value for key, value in raw.items()}


def difference(ours: Tensor, reference: Tensor) -> float:
    """Max difference over the reference's largest value; infinite where shapes differ or a value is not finite."""
    if ours.shape != reference.shape:
        return math.inf
    if ours.numel() == 0:
        return 0.0
    off = (ours.double() - reference.double()).abs().max().item()
    largest = reference.double().abs().max().item()
    if off == 0 or not math.isfinite(off):
        return off if off == 0 else math.inf
    return off / largest if largest else math.inf


def as_one_lot(compute: Callable[[], dict[str, Tensor]]) -> Callable[[str], Tensor]:
    """Run ``compute`` at the first look-up only, without gradients."""

    @cache
    def run() -> dict[str, Tensor]:
        with torch.inference_mode():
            return compute()

    return lambda name: run()[name]


def compare(
    prefix: str,
    compute: Callable[[], dict[str, Tensor]],
    reference: dict[str, Tensor],
    names: Iterable[str],
) -> list[Case]:
    """A case for each named tensor of one computation; names the reference does not hold are passed over.

    Whole numbers (codes, ids, masks, lengths) are compared exactly.
    """
    look_up = as_one_lot(compute)
    return [
        Case(
            f"{prefix}.{name}",
            ROUNDING if reference[name].is_floating_point() else EXACT,
            lambda name=name: difference(look_up(name), reference[name]),
        )
        for name in names
        if name in reference
    ]
