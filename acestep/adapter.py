"""LoRA adapters in the PEFT layout, merged into the transformer's weights as they are loaded.

A layer's weight ``[out, in]`` becomes ``W + scale x strength x B A`` with A ``[rank, in]`` and B ``[out, rank]``.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from acestep.config import is_number, is_size, read_json
from acestep.errors import CheckpointError, RequestError
from acestep.weights import Shape, differences, read_shapes, read_tensors

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model"
LOKR_FILE = "lokr_weights.safetensors"
MOST_SHAPES = 3  # named of an adapter for another size of model: all of them differ in the same way

# What a plain LoRA has at each option that changes what its weights mean.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "alora_invocation_tokens": (None, []),
    "alpha_pattern": (None, {}),
    "arrow_config": (None,),
    "bias": (None, "none"),
    "fan_in_fan_out": (None, False),
    # Others, such as "pissa", start by changing the weights of the model itself.
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),
    "kasa_config": (None,),
    "layer_replication": (None, []),
    "lora_bias": (None, False),
    "modules_to_save": (None, []),
    "monteclora_config": (None,),
    "rank_pattern": (None, {}),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "use_bdlora": (None, False),
    "use_dora": (None, False),
    "use_qalora": (None, False),
    "velora_config": (None,),
}
_KEY = re.compile(
    r"(?:base_model\.model\.)?(?:decoder\.)?"
    r"(?P<layer>layers\.\d+\.(?:self_attn|cross_attn)\.[qkvo]_proj)\.lora_(?P<part>[AB])(?:\.default)?\.weight"
)


@dataclass(frozen=True)
class Adapter:
    """A LoRA folder whose configuration was checked.

    strength: alpha / rank, or alpha / sqrt(rank) where the adapter was trained so.
    names: (layer of the transformer, "A" or "B") -> name in the file.
    """

    folder: Path
    rank: int
    strength: float
    names: Mapping[tuple[str, str], str]
    shapes: Mapping[tuple[str, str], Shape]

    @property
    def layers(self) -> list[str]:
        """The layers it changes."""
        return sorted({layer for layer, _ in self.names})


def check_scale(scale: float) -> None:
    """Refuse a scale that no adapter was trained for.

    Raises:
        RequestError: it is not between 0 and 1.
    """
    if not is_number(scale) or not 0 <= scale <= 1:
        raise RequestError(f"adapter_scale {scale!r} is out of range; use 0 (no effect) to 1 (as trained)")


def open_adapter(folder: Path) -> Adapter:
    """Look at an adapter without loading its weights.

    Raises:
        CheckpointError: it is not a plain LoRA in the PEFT layout, or its tensors are not pairs of A and B.
    """
    if not folder.is_dir():
        raise CheckpointError(f"adapter {folder}: no such folder; give a LoRA folder or a hub id")
    if not (folder / ADAPTER_CONFIG).is_file():
        if (folder / LOKR_FILE).is_file():
            raise CheckpointError(
                f"adapter {folder}: {LOKR_FILE} is a LoKr adapter, which is not supported; give a LoRA in the "
                "PEFT layout, or a checkpoint with the LoKr merged"
            )
        raise CheckpointError(
            f"adapter {folder}: not a LoRA folder; one in the PEFT layout holds {ADAPTER_CONFIG} and "
            f"{ADAPTER_WEIGHTS}.safetensors"
        )
    rank, strength = _strength(folder, read_json(folder / ADAPTER_CONFIG))
    shapes = read_shapes(folder, ADAPTER_WEIGHTS)
    known = {name: match for name in shapes if (match := _KEY.fullmatch(name))}
    names = {(match["layer"], match["part"]): name for name, match in known.items()}
    unknown = sorted(shapes.keys() - names.values())
    if unknown or not names:
        found = f"{len(unknown)} tensors such as {unknown[0]}" if unknown else "no tensor"
        raise CheckpointError(
            f"adapter {folder}: holds {found}; expected LoRA pairs of q_proj, k_proj, v_proj and o_proj of the "
            "transformer's attention alone, each once"
        )
    alone = sorted(
        f"{layer}.lora_{'BA'[part == 'B']}" for layer, part in names if (layer, _other(part)) not in names
    )
    if alone:
        raise CheckpointError(f"adapter {folder}: {len(alone)} missing: {', '.join(alone[:4])}; fetch it again")
    return Adapter(folder, rank, strength, names, {key: shapes[name] for key, name in names.items()})


def _other(part: str) -> str:
    return "B" if part == "A" else "A"


def _strength(folder: Path, raw: dict[str, Any]) -> tuple[int, float]:
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"adapter {folder}: peft_type is {kind!r}; only 'LORA' is supported")
    special = {key: raw[key] for key, plain in _PLAIN.items() if key in raw and raw[key] not in plain}
    if special:
        options = ", ".join(f"{key} = {value!r}" for key, value in sorted(special.items()))
        raise CheckpointError(
            f"adapter {folder}: {options} is not supported; merge it into the checkpoint, or train a plain LoRA"
        )
    rank, alpha = raw.get("r"), raw.get("lora_alpha")
    if not is_size(rank) or not is_number(alpha):
        raise CheckpointError(
            f"adapter {folder}: r is {rank!r} and lora_alpha {alpha!r}; expected a rank of at least 1 and a number"
        )
    return rank, alpha / (math.sqrt(rank) if raw.get("use_rslora") else rank)


def check_fit(adapter: Adapter, decoder: nn.Module) -> None:
    """Compare an adapter with the transformer it is for, which may live on the meta device.

    Raises:
        CheckpointError: listing what the model does not have or has in another shape.
    """
    weights = {name.removesuffix(".weight"): tuple(weight.shape) for name, weight in decoder.named_parameters()}
    expected: dict[str, tuple[int | None, ...]] = {}
    for layer in adapter.layers:
        if layer in weights:
            out, into = weights[layer]
            expected |= {f"{layer}.lora_A": (adapter.rank, into), f"{layer}.lora_B": (out, adapter.rank)}
    found = {f"{layer}.lora_{part}": shape for (layer, part), shape in adapter.shapes.items()}
    problems = differences(found, expected, MOST_SHAPES)
    if problems:
        raise CheckpointError(
            f"adapter {adapter.folder}: does not fit the model; {problems}. Use it with the size of model it was "
            "trained on (2B or XL)"
        )


@torch.no_grad()
def merge_adapter(decoder: nn.Module, adapter: Adapter, scale: float, dtype: torch.dtype) -> None:
    """Add an adapter to the weights of a transformer on the CPU, in fp32, rounded once to ``dtype``.

    Raises:
        CheckpointError: the adapter is for another size of model.
        RequestError: the scale is not between 0 and 1.
    """
    check_scale(scale)
    check_fit(adapter, decoder)
    if not scale:
        return
    tensors = read_tensors(adapter.folder, ADAPTER_WEIGHTS)
    for layer in adapter.layers:
        down, up = (tensors[adapter.names[layer, part]].float() for part in "AB")
        weight = decoder.get_parameter(f"{layer}.weight")
        weight.data = (weight.float() + scale * adapter.strength * (up @ down)).to(dtype)
