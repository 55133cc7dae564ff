"""Merge LoRA adapters into the transformer's weights at load time.

A layer's weight ``[out, in]`` becomes ``W + scale x strength x B A`` with A ``[rank, in]`` and B ``[out, rank]``.
Supports the tensor names of PEFT, diffusers and kohya-ss.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from acestep.checkpoints.diffusers_layout import original_layer
from acestep.checkpoints.lora_files import AdapterFiles, find_adapter_files
from acestep.checkpoints.safetensors_files import Shape, differences, read_shapes, read_tensor, read_tensors
from acestep.errors import FETCH_AGAIN, CheckpointError, RequestError
from acestep.model.config_values import is_number, is_size

MAX_SHAPES = 3  # mismatching shapes to list; for another model size, all of them differ

# Values of a plain LoRA for options that change the meaning of its weights.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None,),
    "bias": (None, "none"),
    "fan_in_fan_out": (None, False),
    # Other values, such as "pissa", modify the weights of the base model.
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),
    "kasa_config": (None,),
    "layer_replication": (None, []),
    "lora_bias": (None, False),
    "modules_to_save": (None, []),
    "monteclora_config": (None,),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "use_bdlora": (None, False),
    "use_dora": (None, False),
    "use_qalora": (None, False),
    "velora_config": (None,),
}
# Other kinds of adapters, by a part of their tensor names.
_OTHER_KINDS = {
    "lokr_": "a LoKr adapter",
    "hada_": "a LoHa adapter",
    "dora_scale": "a DoRA adapter",
    "lora_magnitude_vector": "a DoRA adapter",
}
_PARTS = {"lora_A": "A", "lora_down": "A", "lora.down": "A", "lora_B": "B", "lora_up": "B", "lora.up": "B"}
_KEY = re.compile(r"(?P<layer>.+)\.(?:(?P<part>lora_[AB]|lora[_.](?:down|up))(?:\.\w+)?\.weight|alpha)")
_WRAPPERS = re.compile(r"\A(?:(?:base_model\.model|diffusion_model|transformer|model|decoder)\.)+")
# kohya-ss writes dots as underscores.
_FLAT = re.compile(
    r"(?:lora_unet|lora_transformer|lycoris)_(?:decoder_)?layers_(\d+)_(self_attn|cross_attn|mlp)_(\w+)"
)


class LoraPair(NamedTuple):
    """The two factors of one layer.

    names, shapes: names and shapes of A and B in the file.
    rank: expected rank.
    strength: alpha / rank, or alpha / sqrt(rank) for rank-stabilized LoRA.
    """

    names: tuple[str, str]
    shapes: tuple[Shape, Shape]
    rank: int
    strength: float


@dataclass(frozen=True)
class Adapter:
    """An adapter with a checked configuration.

    pairs: factors by layer of the transformer.
    has_alpha: whether alpha is stated; otherwise alpha = rank, as in diffusers and ComfyUI.
    """

    files: AdapterFiles
    pairs: Mapping[str, LoraPair]
    has_alpha: bool

    @property
    def path(self) -> Path:
        return self.files.path

    def identity(self) -> tuple[Any, ...]:
        """Properties besides the files that determine the adapter's effect."""
        layers = [(pair.rank, pair.strength) for _, pair in sorted(self.pairs.items())]
        return layers[0] if len(set(layers)) == 1 else tuple(layers)

    def note(self) -> str:
        """A note for the user, or ""."""
        if self.has_alpha:
            return ""
        return f"adapter {self.path}: says no alpha, so alpha = rank is taken; adapter_config.json beside it tells"


def check_scale(scale: float) -> None:
    """Check an adapter scale.

    Raises:
        RequestError: it is not between 0 and 1.
    """
    if not is_number(scale) or not 0 <= scale <= 1:
        remedy = "use 0 (no effect) to 1 (as trained)"
        raise RequestError("out_of_range", "", remedy, "adapter_scale", scale)


def open_adapter(path: Path) -> Adapter:
    """Open an adapter without loading its weights.

    Args:
        path: see ``find_adapter_files``.

    Raises:
        CheckpointError: there is none, it is not a plain LoRA, or its tensors are not pairs of A and B.
    """
    files = find_adapter_files(path)
    shapes = read_shapes(files.folder, files.stem)
    known = {name: match for name in shapes if (match := _KEY.fullmatch(name))}
    named: dict[tuple[str, str], str] = {}
    for name, match in known.items():
        named.setdefault((match["layer"], _PARTS.get(match["part"], "alpha")), name)
    layers = {layer: _layer(layer) for layer, _ in named}
    taken = Counter(layers.values())
    unknown = sorted(shapes.keys() - named.values())
    unknown += sorted(layer for layer, ours in layers.items() if taken[ours] > 1)
    if unknown or not named:
        raise CheckpointError("damaged_weights", _unsupported_tensors(unknown), where=f"adapter {files.path}")
    alone = sorted(
        f"{ours}.lora_{part}" for layer, ours in layers.items() for part in "AB" if (layer, part) not in named
    )
    if alone:
        reason = f"{len(alone)} missing: {', '.join(alone[:4])}"
        raise CheckpointError("missing_weights", reason, FETCH_AGAIN, where=f"adapter {files.path}")
    config = files.config()
    if config is not None:
        _check_config(files, config)
    pairs, has_alpha = {}, True
    for layer, ours in layers.items():
        down, up = named[layer, "A"], named[layer, "B"]
        alpha = _alpha(files, named.get((layer, "alpha")))
        rank = shapes[down][0] if shapes[down] else 0
        strength = alpha / rank if alpha is not None and rank else 1.0
        has_alpha &= config is not None or alpha is not None
        if config is not None:
            rank, strength = _configured(files, config, layer, alpha)
        pairs[ours] = LoraPair((down, up), (shapes[down], shapes[up]), rank, strength)
    return Adapter(files, pairs, has_alpha)


def _layer(name: str) -> str:
    """Translate a layer name of an adapter file to the transformer's."""
    flat = _FLAT.fullmatch(name)
    if flat:
        number, part, projection = flat.groups()
        name = f"layers.{number}.{part}.{projection.replace('to_out_0', 'to_out.0')}"
    return original_layer(_WRAPPERS.sub("", name))


def _unsupported_tensors(unknown: list[str]) -> str:
    """Message for unsupported tensors of an adapter."""
    for sign, kind in _OTHER_KINDS.items():
        of_kind = [name for name in unknown if sign in name]
        if of_kind:
            return (
                f"is {kind} (holds {of_kind[0]}), which is not supported; give a LoRA, or a checkpoint with the "
                "adapter merged"
            )
    found = f"{len(unknown)} tensors such as {unknown[0]}" if unknown else "no tensor"
    return f"holds {found}; expected LoRA pairs A and B of the transformer's layers alone, each once"


def _alpha(files: AdapterFiles, name: str | None) -> float | None:
    """The alpha of one layer in the weights file, or None."""
    tensor = read_tensor(files.folder, files.stem, name) if name else None
    if tensor is None:
        return None
    if tensor.numel() != 1 or not is_number(tensor.item()):
        reason = "is not one finite number"
        raise CheckpointError("damaged_weights", reason, FETCH_AGAIN, name, where=f"adapter {files.path}")
    return float(tensor.item())


def _check_config(files: AdapterFiles, config: Mapping[str, Any]) -> None:
    """Check that a configuration describes a plain LoRA."""
    kind = config.get("peft_type")
    if kind != "LORA":
        remedy = "only 'LORA' is supported"
        reason = f"is {kind!r}"
        raise CheckpointError("unsupported_weights", reason, remedy, "peft_type", where=f"adapter {files.path}")
    special = {key: config[key] for key, plain in _PLAIN.items() if key in config and config[key] not in plain}
    if special:
        options = ", ".join(f"{key} = {value!r}" for key, value in sorted(special.items()))
        remedy = "merge it into the checkpoint, or train a plain LoRA"
        raise CheckpointError(
            "unsupported_weights", f"{options} is not supported", remedy, where=f"adapter {files.path}"
        )


def _configured(
    files: AdapterFiles, config: Mapping[str, Any], layer: str, own_alpha: float | None
) -> tuple[int, float]:
    """Rank and strength of a layer, by its name in the file."""
    rank = _of_pattern(files, config, "rank_pattern", layer, config.get("r"))
    alpha = _of_pattern(files, config, "alpha_pattern", layer, config.get("lora_alpha"))
    if not is_size(rank) or not is_number(alpha):
        remedy = "expected a rank of at least 1 and a number"
        reason = f"r is {rank!r} and lora_alpha {alpha!r}"
        raise CheckpointError("damaged_weights", reason, remedy, where=f"adapter {files.path}")
    if own_alpha is not None and own_alpha != alpha:
        raise CheckpointError(
            "damaged_weights",
            f"alpha of {layer} is {own_alpha:g} in the weights and {alpha:g} in the configuration",
            "fetch both again",
            where=f"adapter {files.path}",
        )
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _of_pattern(files: AdapterFiles, config: Mapping[str, Any], name: str, layer: str, usual: Any) -> Any:
    """Value of a PEFT pattern for a layer: the first entry that matches its name or suffix, else ``usual``."""
    pattern = config.get(name) or {}
    if not isinstance(pattern, Mapping):
        remedy = "expected values by layer"
        raise CheckpointError("damaged_weights", f"is {pattern!r}", remedy, name, where=f"adapter {files.path}")
    own = re.sub(r"^(base_model\.model|transformer)\.", "", layer)
    for key, value in pattern.items():
        ending = key.removeprefix("^").removesuffix("$").replace("\\.", ".")
        if not re.fullmatch(r"[\w.-]+", ending):
            # PEFT accepts arbitrary regular expressions, some of which take exponential time.
            reason = f"= {key!r} is not supported"
            raise CheckpointError(
                "unsupported_weights", reason, "name layers in full", name, where=f"adapter {files.path}"
            )
        if own == ending or (not key.startswith("^") and own.endswith(f".{ending}")):
            return value
    return usual


def check_fit(adapter: Adapter, decoder: nn.Module) -> None:
    """Check that an adapter matches a transformer, which may be on the meta device.

    Raises:
        CheckpointError: layers are missing or have other shapes.
    """
    weights = {name.removesuffix(".weight"): tuple(weight.shape) for name, weight in decoder.named_parameters()}
    expected: dict[str, tuple[int | None, ...]] = {}
    found: dict[str, Shape] = {}
    for layer, pair in adapter.pairs.items():
        found |= {f"{layer}.lora_A": pair.shapes[0], f"{layer}.lora_B": pair.shapes[1]}
        if len(weights.get(layer, ())) == 2:
            out, into = weights[layer]
            expected |= {f"{layer}.lora_A": (pair.rank, into), f"{layer}.lora_B": (out, pair.rank)}
    problems = differences(found, expected, MAX_SHAPES)
    if problems:
        remedy = f"{problems}. Use it with the model it was trained on (ACE-Step 1.5, 2B or XL)"
        reason = "does not fit the model"
        raise CheckpointError("mismatched_weights", reason, remedy, where=f"adapter {adapter.path}")


@torch.no_grad()
def merge_adapter(decoder: nn.Module, adapter: Adapter, scale: float, dtype: torch.dtype) -> None:
    """Add an adapter to the weights of a transformer on the CPU, computed in fp32 and rounded once to ``dtype``.

    Raises:
        CheckpointError: the adapter is for another size of model.
        RequestError: the scale is not between 0 and 1.
    """
    check_scale(scale)
    check_fit(adapter, decoder)
    if not scale:
        return
    tensors = read_tensors(adapter.files.folder, adapter.files.stem)
    for layer, pair in sorted(adapter.pairs.items()):
        down, up = (tensors[name].float() for name in pair.names)
        weight = decoder.get_parameter(f"{layer}.weight")
        weight.data = (weight.float() + scale * pair.strength * (up @ down)).to(dtype)
