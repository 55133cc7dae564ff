"""Model sizes, parsed from the config.json of a checkpoint."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeGuard

from acestep.errors import CheckpointError


@dataclass(frozen=True)
class BlockConfig:
    """Sizes of the attention blocks of one stack.

    ``windows[i]`` is the attention window of layer i in tokens (key j is visible to query i iff
    ``|i - j| <= window``), or None for full attention.
    """

    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    windows: tuple[int | None, ...]


@dataclass(frozen=True)
class ModelConfig:
    """One diffusion transformer with its condition encoder, audio tokenizer and detokenizer."""

    decoder: BlockConfig
    encoder: BlockConfig
    lyric_layers: int
    timbre_layers: int
    pooler_layers: int
    text_channels: int
    latent_channels: int
    timbre_channels: int
    in_channels: int
    patch_size: int
    pool_window: int
    fsq_channels: int
    fsq_levels: tuple[int, ...]
    timbre_frames: int
    timbre_token: bool  # XL models: a learned token is prepended to the clip and its state returned
    is_turbo: bool

    @property
    def decoder_layers(self) -> int:
        return len(self.decoder.windows)


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the Oobleck autoencoder; the product of ``ratios`` is its hop in samples."""

    audio_channels: int
    encoder_channels: int
    decoder_channels: int
    latent_channels: int
    multiples: tuple[int, ...]
    ratios: tuple[int, ...]
    sample_rate: int


SLIDING, FULL = "sliding_attention", "full_attention"
MAX_NUMBER = 1e12  # also excludes infinities and huge integers
MAX_LAYERS = 1000  # per stack; building a layer takes about a millisecond even without its weights
MAX_CODES = 2**62  # code indices are int64
MAX_TIMBRE_FRAMES = 15_000  # ten minutes at 25 Hz
_NO_DIMENSION = ("timbre_frames", "sample_rate")


def parse_model_config(raw: dict[str, Any], name: str) -> ModelConfig:
    """Parse a model's ``config.json``; ignores unknown keys, which concern training.

    The key ``encoder_hidden_size`` marks an XL model, whose encoder has its own width.

    Args:
        raw: the parsed JSON object.
        name: folder, repository or hub id; "turbo" in its last part marks a distilled model if the file does not
            state the kind.

    Raises:
        CheckpointError: a required key is missing or the file describes another kind of model.
    """
    if raw.get("model_type", "acestep") != "acestep":
        raise CheckpointError(
            "unsupported_weights", field="model_type", value=raw["model_type"], allowed="acestep", where=name
        )
    for key, only in (("rope_scaling", None), ("hidden_act", "silu"), ("attention_bias", False)):
        if raw.get(key, only) != only:
            remedy = f"only {only!r} is supported"
            raise CheckpointError("damaged_weights", f"is {raw[key]!r:.200}", remedy, key, where=name)
    if raw.get("fsq_input_num_quantizers", 1) != 1:
        raise CheckpointError(
            "damaged_weights",
            f"{raw['fsq_input_num_quantizers']!r:.200} quantizers",
            "only one is supported",
            where=name,
        )
    try:
        config = _model_config(raw, name)
    except KeyError as error:
        remedy = "is this an ACE-Step 1.5 model?"
        raise CheckpointError("damaged_weights", f"has no {error}", remedy, "config.json", where=name) from error
    except ValueError as error:
        raise CheckpointError(
            "damaged_weights", f"has a value of the wrong kind ({error})", field="config.json", where=name
        ) from error
    _check_sizes(config, name)
    if config.in_channels != 3 * config.latent_channels:
        raise CheckpointError(
            "damaged_weights",
            f"is not 3 x {config.latent_channels} latent channels",
            field="in_channels",
            value=config.in_channels,
            where=name,
        )
    return config


def _check_sizes(config: ModelConfig, name: str) -> None:
    """Refuse sizes that match the tensors but are not usable."""
    for block in (config.decoder, config.encoder):
        if block.head_dim % 2:
            raise CheckpointError(
                "damaged_weights",
                "is not supported",
                field="head_dim",
                value=block.head_dim,
                allowed="an even number",
                where=name,
            )
        if block.heads % block.kv_heads:
            raise CheckpointError(
                "mismatched_weights",
                f"{block.heads} attention heads do not share {block.kv_heads} key-value heads evenly",
                where=name,
            )
    if min(config.fsq_levels) < 2 or math.prod(config.fsq_levels) > MAX_CODES:
        raise CheckpointError(
            "damaged_weights",
            f"is {config.fsq_levels!r:.200}, expected at least 2 each and at most {MAX_CODES} codes in all",
            field="fsq_input_levels",
            where=name,
        )
    if config.timbre_frames > MAX_TIMBRE_FRAMES:
        raise CheckpointError(
            "damaged_weights",
            f"is {config.timbre_frames}, expected at most {MAX_TIMBRE_FRAMES}",
            field="timbre_fix_frame",
            where=name,
        )


def _model_config(raw: dict[str, Any], name: str) -> ModelConfig:
    layers = layer_count(raw, "num_hidden_layers")
    lyric, timbre, pooler = (
        layer_count(raw, f"num_{part}_hidden_layers")
        for part in ("lyric_encoder", "timbre_encoder", "attention_pooler")
    )
    encoder_layers = max(lyric, timbre, pooler)
    windows = _windows(raw, max(layers, encoder_layers))
    shared: dict[str, Any] = {
        "head_dim": _size(raw, "head_dim"),
        "rms_norm_eps": _positive(raw, "rms_norm_eps", 1e-6),
        "rope_theta": _positive(raw, "rope_theta", 1_000_000),
    }
    sizes = {
        "hidden_size": _size(raw, "hidden_size"),
        "intermediate_size": _size(raw, "intermediate_size"),
        "heads": _size(raw, "num_attention_heads"),
        "kv_heads": _size(raw, "num_key_value_heads"),
    }
    encoder_sizes = {
        "hidden_size": _size(raw, "encoder_hidden_size", sizes["hidden_size"]),
        "intermediate_size": _size(raw, "encoder_intermediate_size", sizes["intermediate_size"]),
        "heads": _size(raw, "encoder_num_attention_heads", sizes["heads"]),
        "kv_heads": _size(raw, "encoder_num_key_value_heads", sizes["kv_heads"]),
    }
    return ModelConfig(
        decoder=BlockConfig(**sizes, **shared, windows=windows[:layers]),
        encoder=BlockConfig(**encoder_sizes, **shared, windows=windows[:encoder_layers]),
        lyric_layers=lyric,
        timbre_layers=timbre,
        pooler_layers=pooler,
        text_channels=_size(raw, "text_hidden_dim"),
        latent_channels=_size(raw, "audio_acoustic_hidden_dim"),
        timbre_channels=_size(raw, "timbre_hidden_dim"),
        in_channels=_size(raw, "in_channels"),
        patch_size=_size(raw, "patch_size"),
        pool_window=_size(raw, "pool_window_size"),
        fsq_channels=_size(raw, "fsq_dim"),
        fsq_levels=_several_sizes(raw, "fsq_input_levels"),
        timbre_frames=_size(raw, "timbre_fix_frame", 750),
        timbre_token=raw.get("encoder_hidden_size") is not None,
        is_turbo=_is_turbo(raw, name),
    )


def _is_turbo(raw: dict[str, Any], name: str) -> bool:
    said, version = raw.get("is_turbo"), raw.get("model_version")
    if said not in (None, True, False):
        raise ValueError(f"is_turbo is {said!r:.200}, expected true or false")
    # Diffusers writes is_turbo: false by default, so false alone is not conclusive.
    return bool(said) or version == "turbo" or (version is None and "turbo" in name.rsplit("/", 1)[-1])


def _windows(raw: dict[str, Any], layers: int) -> tuple[int | None, ...]:
    """The attention window of each layer; see ``BlockConfig``."""
    kinds = layer_kinds(raw) or [SLIDING, FULL] * layers
    if len(kinds) < layers:
        raise ValueError(f"layer_types has {len(kinds)} entries for {layers} layers")
    slides = raw.get("use_sliding_window", True) and SLIDING in kinds
    window = _size(raw, "sliding_window") if slides else None
    return tuple(window if kind == SLIDING else None for kind in kinds)


def layer_kinds(raw: dict[str, Any]) -> list[str] | None:
    """The attention kinds of ``layer_types``; None if the key is missing.

    Raises:
        ValueError: the value is invalid.
    """
    kinds = raw.get("layer_types")
    if not kinds and (kinds is None or kinds == []):
        return None
    if not isinstance(kinds, list) or any(kind not in (SLIDING, FULL) for kind in kinds):
        raise ValueError(f"layer_types is {kinds!r:.200}, expected a list of {SLIDING!r} and {FULL!r}")
    return kinds


def parse_autoencoder_config(raw: dict[str, Any], name: str) -> AutoencoderConfig:
    """Parse the ``config.json`` of an autoencoder.

    Raises:
        CheckpointError: a required key is missing or the file describes another autoencoder.
    """
    if raw.get("_class_name", "AutoencoderOobleck") != "AutoencoderOobleck":
        raise CheckpointError(
            "unsupported_weights",
            field="_class_name",
            value=raw["_class_name"],
            allowed="AutoencoderOobleck",
            where=name,
        )
    try:
        config = AutoencoderConfig(
            audio_channels=_size(raw, "audio_channels"),
            encoder_channels=_size(raw, "encoder_hidden_size"),
            decoder_channels=_size(raw, "decoder_channels"),
            latent_channels=_size(raw, "decoder_input_channels"),
            multiples=_several_sizes(raw, "channel_multiples"),
            ratios=_several_sizes(raw, "downsampling_ratios"),
            sample_rate=_size(raw, "sampling_rate"),
        )
        if len(config.multiples) != len(config.ratios):
            raise ValueError(
                f"{len(config.multiples)} channel_multiples, {len(config.ratios)} downsampling_ratios"
            )
    except KeyError as error:
        remedy = "is this an Oobleck autoencoder?"
        raise CheckpointError("damaged_weights", f"has no {error}", remedy, "config.json", where=name) from error
    except ValueError as error:
        raise CheckpointError(
            "damaged_weights", f"has a value of the wrong kind ({error})", field="config.json", where=name
        ) from error
    return config


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a JSON value is a finite number of plausible magnitude."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER


def is_size(value: object) -> TypeGuard[int]:
    """Whether a JSON value is an integer above 0."""
    return isinstance(value, int) and is_number(value) and value > 0


def _given(raw: Mapping[str, Any], key: str, default: float | None) -> Any:
    """A value, or the default if it is missing or null."""
    if raw.get(key) is not None:
        return raw[key]
    return raw[key] if default is None else default


def layer_count(raw: Mapping[str, Any], key: str) -> int:
    """Read a number of layers.

    Raises:
        KeyError: the key is missing.
        ValueError: the value is not an integer from 1 to ``MAX_LAYERS``.
    """
    count = _size(raw, key)
    if count > MAX_LAYERS:
        raise ValueError(f"{key} is {count}, expected at most {MAX_LAYERS}")
    return count


def _size(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = _given(raw, key, default)
    if not is_size(value):
        raise ValueError(f"{key} is {value!r:.200}, expected a whole number above 0")
    return value


def _positive(raw: Mapping[str, Any], key: str, default: float) -> float:
    value = _given(raw, key, default)
    if not is_number(value) or value <= 0:
        raise ValueError(f"{key} is {value!r:.200}, expected a number above 0")
    return float(value)


def _several_sizes(raw: Mapping[str, Any], key: str) -> tuple[int, ...]:
    values = raw[key]
    if not isinstance(values, list) or not values or not all(map(is_size, values)):
        raise ValueError(f"{key} is {values!r:.200}, expected a list of whole numbers above 0")
    if len(values) > MAX_LAYERS:
        raise ValueError(f"{key} has {len(values)} entries, expected at most {MAX_LAYERS}")
    return tuple(values)


def sizes_of(config: ModelConfig | BlockConfig | AutoencoderConfig) -> Iterator[tuple[str, int]]:
    """Names and values of all sizes that are dimensions of a tensor."""
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, BlockConfig):
            yield from ((f"{field.name}.{name}", size) for name, size in sizes_of(value))
        elif is_size(value) and field.name not in _NO_DIMENSION:
            yield field.name, value
