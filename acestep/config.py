"""Model sizes, read from a checkpoint's config.json and never assumed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.errors import CheckpointError


@dataclass(frozen=True)
class BlockConfig:
    """Sizes shared by all attention blocks of one stack.

    ``windows[i]`` is the attention window of layer i in tokens (key j is visible to query i iff
    ``|i - j| <= window``), or None where the layer sees everything.
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
    timbre_token: bool  # XL: a learned token is prepended to the clip and read out
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


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file is missing or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; is the checkpoint folder complete?") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def parse_model_config(raw: dict[str, Any], name: str) -> ModelConfig:
    """Turn a DiT ``config.json`` into a ``ModelConfig``; unknown keys are training-only and ignored.

    A separate ``encoder_hidden_size`` marks an XL model, whose encoder side has its own width.

    Args:
        raw: the parsed JSON object.
        name: folder name; "turbo" in it marks a distilled model when the file does not say so.

    Raises:
        CheckpointError: a needed key is missing or the file describes another kind of model.
    """
    if raw.get("model_type", "acestep") != "acestep":
        raise CheckpointError(f"{name}: model_type is {raw['model_type']!r}, expected 'acestep'")
    try:
        layers = raw["num_hidden_layers"]
        encoder_layers = max(
            raw["num_lyric_encoder_hidden_layers"],
            raw["num_timbre_encoder_hidden_layers"],
            raw["num_attention_pooler_hidden_layers"],
        )
        deepest = max(layers, encoder_layers)
        kinds = raw.get("layer_types") or ["sliding_attention", "full_attention"] * deepest
        for key, only in (("rope_scaling", None), ("hidden_act", "silu"), ("attention_bias", False)):
            if raw.get(key, only) != only:
                raise CheckpointError(f"{name}: {key} is {raw[key]!r}; only {only!r} is supported")
        strange = set(kinds) - {"sliding_attention", "full_attention"}
        if strange:
            raise CheckpointError(f"{name}: layer_types holds {', '.join(sorted(map(repr, strange)))}")
        if len(kinds) < deepest:
            raise CheckpointError(f"{name}: layer_types has {len(kinds)} entries for {deepest} layers")
        window = raw["sliding_window"] if raw.get("use_sliding_window", True) else None
        windows = tuple(window if kind == "sliding_attention" else None for kind in kinds)
        shared = {
            "head_dim": raw["head_dim"],
            "rms_norm_eps": raw.get("rms_norm_eps", 1e-6),
            "rope_theta": float(raw.get("rope_theta", 1_000_000)),
        }
        decoder = BlockConfig(
            hidden_size=raw["hidden_size"],
            intermediate_size=raw["intermediate_size"],
            heads=raw["num_attention_heads"],
            kv_heads=raw["num_key_value_heads"],
            windows=windows[:layers],
            **shared,
        )
        encoder = BlockConfig(
            hidden_size=raw.get("encoder_hidden_size") or raw["hidden_size"],
            intermediate_size=raw.get("encoder_intermediate_size") or raw["intermediate_size"],
            heads=raw.get("encoder_num_attention_heads") or raw["num_attention_heads"],
            kv_heads=raw.get("encoder_num_key_value_heads") or raw["num_key_value_heads"],
            windows=windows[:encoder_layers],
            **shared,
        )
        config = ModelConfig(
            decoder=decoder,
            encoder=encoder,
            lyric_layers=raw["num_lyric_encoder_hidden_layers"],
            timbre_layers=raw["num_timbre_encoder_hidden_layers"],
            pooler_layers=raw["num_attention_pooler_hidden_layers"],
            text_channels=raw["text_hidden_dim"],
            latent_channels=raw["audio_acoustic_hidden_dim"],
            timbre_channels=raw["timbre_hidden_dim"],
            in_channels=raw["in_channels"],
            patch_size=raw["patch_size"],
            pool_window=raw["pool_window_size"],
            fsq_channels=raw["fsq_dim"],
            fsq_levels=tuple(raw["fsq_input_levels"]),
            timbre_frames=raw.get("timbre_fix_frame", 750),
            timbre_token=raw.get("encoder_hidden_size") is not None,
            is_turbo=bool(raw.get("is_turbo")) or raw.get("model_version") == "turbo" or "turbo" in name,
        )
    except KeyError as error:
        raise CheckpointError(f"{name}: config.json has no {error}; is this an ACE-Step 1.5 model?") from error
    except TypeError as error:
        raise CheckpointError(f"{name}: config.json has a value of the wrong kind ({error})") from error
    if raw.get("fsq_input_num_quantizers", 1) != 1:
        raise CheckpointError(f"{name}: {raw['fsq_input_num_quantizers']} quantizers; only one is supported")
    if config.in_channels != 3 * config.latent_channels:
        raise CheckpointError(
            f"{name}: in_channels {config.in_channels} is not 3 x {config.latent_channels} latent channels"
        )
    return config


def parse_autoencoder_config(raw: dict[str, Any], name: str) -> AutoencoderConfig:
    """Turn the autoencoder's ``config.json`` into an ``AutoencoderConfig``.

    Raises:
        CheckpointError: a needed key is missing or the file describes another autoencoder.
    """
    if raw.get("_class_name", "AutoencoderOobleck") != "AutoencoderOobleck":
        raise CheckpointError(f"{name}: _class_name is {raw['_class_name']!r}, expected 'AutoencoderOobleck'")
    try:
        return AutoencoderConfig(
            audio_channels=raw["audio_channels"],
            encoder_channels=raw["encoder_hidden_size"],
            decoder_channels=raw["decoder_channels"],
            latent_channels=raw["decoder_input_channels"],
            multiples=tuple(raw["channel_multiples"]),
            ratios=tuple(raw["downsampling_ratios"]),
            sample_rate=raw["sampling_rate"],
        )
    except KeyError as error:
        raise CheckpointError(f"{name}: config.json has no {error}; is this an Oobleck autoencoder?") from error
