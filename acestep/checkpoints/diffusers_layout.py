"""The diffusers layout: one folder with its own config.json per module, translated to the original layout.

Tensors are named ``<module folder>/<name in its file>``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acestep.checkpoints.json_files import read_json
from acestep.checkpoints.safetensors_files import Shape, Sizes, read_shapes, read_tensor, read_tensors
from acestep.errors import CheckpointError
from acestep.model.config_values import FULL, SLIDING, layer_kinds

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model_index.json"
PIPELINE = "AceStepPipeline"
WEIGHTS = "diffusion_pytorch_model"
SILENCE = "silence_latent"
TRANSFORMER, CONDITIONER, TOKENIZER = "transformer", "condition_encoder", "audio_tokenizer"
FSQ_LEVELS = [8, 8, 8, 5, 5, 5]
CLASSES = {
    TRANSFORMER: "AceStepTransformer1DModel",
    CONDITIONER: "AceStepConditionEncoder",
    TOKENIZER: "AceStepAudioTokenizer",
    "audio_token_detokenizer": "AceStepAudioTokenDetokenizer",
}

# Original name -> name in this layout.
_PREFIXES = (
    ("decoder.", f"{TRANSFORMER}/"),
    ("encoder.", f"{CONDITIONER}/"),
    ("tokenizer.", "audio_tokenizer/"),
    ("detokenizer.", "audio_token_detokenizer/"),
    ("null_condition_emb", f"{CONDITIONER}/null_condition_emb"),
)
_RENAMES = (
    ("proj_in.1.", "proj_in_conv."),
    ("proj_out.1.", "proj_out_conv."),
    (".q_proj.", ".to_q."),
    (".k_proj.", ".to_k."),
    (".v_proj.", ".to_v."),
    (".o_proj.", ".to_out.0."),
    (".q_norm.", ".norm_q."),
    (".k_norm.", ".norm_k."),
)

# Sizes that may differ between decoder and encoder; the original layout prefixes the encoder's with ``encoder_``.
_OWN_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
_SHARED = tuple(
    """
    attention_bias audio_acoustic_hidden_dim encoder_hidden_size fsq_dim fsq_input_levels
    fsq_input_num_quantizers head_dim hidden_act in_channels is_turbo model_version
    num_attention_pooler_hidden_layers num_hidden_layers num_lyric_encoder_hidden_layers
    num_timbre_encoder_hidden_layers patch_size pool_window_size rms_norm_eps rope_scaling rope_theta
    sliding_window text_hidden_dim timbre_fix_frame timbre_hidden_dim use_sliding_window
    """.split()
)


def is_diffusers(folder: Path) -> bool:
    return (folder / INDEX).is_file()


def check_index(folder: Path) -> None:
    """Check the pipeline's class.

    Raises:
        CheckpointError: the folder holds another kind of pipeline.
    """
    kind = read_json(folder / INDEX).get("_class_name")
    if kind != PIPELINE:
        remedy = "give an ACE-Step 1.5 checkpoint"
        reason = f"{INDEX} describes a {kind!r}, expected {PIPELINE!r}"
        raise CheckpointError("unsupported_weights", reason, remedy, where=folder)


def modules(folder: Path) -> list[str]:
    """The module folders named by the pipeline's index."""
    return [name for name, kind in read_json(folder / INDEX).items() if isinstance(kind, list) and all(kind)]


def file_name(published: str) -> str:
    """The name in this layout of a tensor of the original layout."""
    prefix, here = next((p, h) for p, h in _PREFIXES if published.startswith(p))
    name = here + published.removeprefix(prefix)
    for theirs, ours in _RENAMES:
        name = name.replace(theirs, ours)
    return name


def original_layer(name: str) -> str:
    """The original layout's name of a layer, which may already be in the original layout."""
    for original, here in _RENAMES:
        name = f"{name}.".replace(here, original).removesuffix(".")
    return name


def model_config(folder: Path) -> dict[str, Any]:
    """Merge the modules' configurations into one ``config.json`` of the original layout.

    Raises:
        CheckpointError: a module is missing or of another class, or two modules contradict each other.
    """
    check_index(folder)
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    kinds_of_layers: dict[str, list[str] | None] = {}
    for module, kind in CLASSES.items():
        raw = read_json(folder / module / "config.json")
        if raw.get("_class_name") != kind:
            reason = f"is {raw.get('_class_name')!r}, expected {kind!r}"
            raise CheckpointError("unsupported_weights", reason, field="_class_name", where=folder / module)
        try:
            kinds_of_layers[module] = layer_kinds(raw)
        except ValueError as error:
            raise CheckpointError("damaged_weights", str(error), where=folder / module) from error
        for key, value in _original_keys(module, raw).items():
            if merged.setdefault(key, value) != value:
                remedy = "the modules are not of one model"
                raise CheckpointError(
                    "mismatched_weights",
                    f"is {merged[key]!r} in {origin[key]} and {value!r} in {module}",
                    remedy,
                    key,
                    where=folder,
                )
            origin.setdefault(key, module)
    if merged.get("encoder_hidden_size") == merged.get("hidden_size"):
        del merged["encoder_hidden_size"]  # in the original layout, the key marks an XL model
    return merged | {"layer_types": _layer_types(folder, kinds_of_layers)}


def _original_keys(module: str, raw: dict[str, Any]) -> dict[str, Any]:
    keys = {key: raw[key] for key in _SHARED if key in raw}
    if module == TRANSFORMER:
        if keys.get("encoder_hidden_size") is None:
            keys["encoder_hidden_size"] = raw.get("hidden_size")
        return keys | {key: raw[key] for key in _OWN_SIZES if key in raw}
    if module == TOKENIZER and keys.get("fsq_input_levels") is None:
        keys["fsq_input_levels"] = FSQ_LEVELS  # diffusers writes null for its default
    return keys | {f"encoder_{key}": raw[key] for key in _OWN_SIZES if key in raw}


def _layer_types(folder: Path, given: dict[str, list[str] | None]) -> list[str] | None:
    """One list for all modules, each of which uses a prefix; None if all alternate, sliding first."""
    longest = max((kinds or [] for kinds in given.values()), key=len)
    alternating = ([SLIDING, FULL] * len(longest))[: len(longest)]
    for module, kinds in given.items():
        own = kinds or alternating
        if own != longest[: len(own)]:
            remedy = "modules of different orders are not supported"
            reason = f"is {kinds} in {module}, but {longest} elsewhere"
            raise CheckpointError("unsupported_weights", reason, remedy, "layer_types", where=folder)
    return None if longest == alternating else longest


def expected_tensors(published: Mapping[str, Shape], channels: int) -> dict[str, Sizes]:
    """Shapes of the required tensors: the published ones under this layout's names, and the silence latent."""
    renamed: dict[str, Sizes] = {file_name(name): shape for name, shape in published.items()}
    return renamed | {f"{CONDITIONER}/{SILENCE}": (1, None, channels)}


def tensor_shapes(folder: Path) -> dict[str, Shape]:
    """Names and shapes of all modules' tensors.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    shapes = {module: read_shapes(folder / module, WEIGHTS) for module in CLASSES}
    return {f"{module}/{name}": shape for module, own in shapes.items() for name, shape in own.items()}


def tensors(folder: Path) -> "dict[str, Tensor]":
    content = {module: read_tensors(folder / module, WEIGHTS) for module in CLASSES}
    return {f"{module}/{name}": tensor for module, own in content.items() for name, tensor in own.items()}


def silence(folder: Path, channels: int) -> "Tensor":
    """The silence latent ``[frames, channels]``, in the dtype of the condition encoder's file.

    Raises:
        CheckpointError: the file has none of this width.
    """
    found = read_tensor(folder / CONDITIONER, WEIGHTS, SILENCE)
    if found is None or found.dim() != 3 or (found.shape[0], found.shape[2]) != (1, channels):
        shape = "none" if found is None else list(found.shape)
        reason = f"expected a {SILENCE} [1, frames, {channels}], found {shape}"
        raise CheckpointError("damaged_weights", reason, where=folder / CONDITIONER)
    return found[0]


def module_folders(folder: Path) -> list[Path]:
    return [folder / module for module in CLASSES]
