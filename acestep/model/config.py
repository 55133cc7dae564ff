"""Model sizes, parsed from the config.json of a checkpoint."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from acestep.errors import CheckpointError
from acestep.model.config_values import (
    FULL,
    SLIDING,
    is_size,
    layer_count,
    layer_kinds,
    positive_number,
    size_of,
    sizes_list,
)


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
        reason = f"{raw['fsq_input_num_quantizers']!r:.200} quantizers"
        raise CheckpointError("damaged_weights", reason, "only one is supported", where=name)
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
        reason = f"is {config.fsq_levels!r:.200}, expected at least 2 each and at most {MAX_CODES} codes in all"
        raise CheckpointError("damaged_weights", reason, field="fsq_input_levels", where=name)
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
        "head_dim": size_of(raw, "head_dim"),
        "rms_norm_eps": positive_number(raw, "rms_norm_eps", 1e-6),
        "rope_theta": positive_number(raw, "rope_theta", 1_000_000),
    }
    sizes = {
        "hidden_size": size_of(raw, "hidden_size"),
        "intermediate_size": size_of(raw, "intermediate_size"),
        "heads": size_of(raw, "num_attention_heads"),
        "kv_heads": size_of(raw, "num_key_value_heads"),
    }
    encoder_sizes = {
        "hidden_size": size_of(raw, "encoder_hidden_size", sizes["hidden_size"]),
        "intermediate_size": size_of(raw, "encoder_intermediate_size", sizes["intermediate_size"]),
        "heads": size_of(raw, "encoder_num_attention_heads", sizes["heads"]),
        "kv_heads": size_of(raw, "encoder_num_key_value_heads", sizes["kv_heads"]),
    }
    return ModelConfig(
        decoder=BlockConfig(**sizes, **shared, windows=windows[:layers]),
        encoder=BlockConfig(**encoder_sizes, **shared, windows=windows[:encoder_layers]),
        lyric_layers=lyric,
        timbre_layers=timbre,
        pooler_layers=pooler,
        text_channels=size_of(raw, "text_hidden_dim"),
        latent_channels=size_of(raw, "audio_acoustic_hidden_dim"),
        timbre_channels=size_of(raw, "timbre_hidden_dim"),
        in_channels=size_of(raw, "in_channels"),
        patch_size=size_of(raw, "patch_size"),
        pool_window=size_of(raw, "pool_window_size"),
        fsq_channels=size_of(raw, "fsq_dim"),
        fsq_levels=sizes_list(raw, "fsq_input_levels"),
        timbre_frames=size_of(raw, "timbre_fix_frame", 750),
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
    window = size_of(raw, "sliding_window") if slides else None
    return tuple(window if kind == SLIDING else None for kind in kinds)


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
            audio_channels=size_of(raw, "audio_channels"),
            encoder_channels=size_of(raw, "encoder_hidden_size"),
            decoder_channels=size_of(raw, "decoder_channels"),
            latent_channels=size_of(raw, "decoder_input_channels"),
            multiples=sizes_list(raw, "channel_multiples"),
            ratios=sizes_list(raw, "downsampling_ratios"),
            sample_rate=size_of(raw, "sampling_rate"),
        )
        if len(config.multiples) != len(config.ratios):
            raise ValueError(
                f"{len(config.multiples)} channel_multiples, {len(config.ratios)} downsampling_ratios"
            )
    except KeyError as error:
        remedy = "is this an Oobleck autoencoder?"
        raise CheckpointError("damaged_weights", f"has no {error}", remedy, "config.json", where=name) from error
    except ValueError as error:
        reason = f"has a value of the wrong kind ({error})"
        raise CheckpointError("damaged_weights", reason, field="config.json", where=name) from error
    return config


def sizes_of(config: ModelConfig | BlockConfig | AutoencoderConfig) -> Iterator[tuple[str, int]]:
    """Names and values of all sizes that are dimensions of a tensor."""
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, BlockConfig):
            yield from ((f"{field.name}.{name}", size) for name, size in sizes_of(value))
        elif is_size(value) and field.name not in _NO_DIMENSION:
            yield field.name, value
