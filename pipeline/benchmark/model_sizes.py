"""Model sizes of the benchmark: random weights in the shapes of the published files or smaller ones."""

from dataclasses import dataclass
from typing import Any

from acestep.model.config import ModelConfig, parse_model_config

LEVELS = [8, 8, 8, 5, 5, 5]


@dataclass(frozen=True)
class Size:
    """One size: the three configuration files in the published layout."""

    name: str
    model: dict[str, Any]
    autoencoder: dict[str, Any]
    text_encoder: dict[str, Any]

    @property
    def model_config(self) -> ModelConfig:
        return parse_model_config(self.model, self.name)


def _model(
    width: int, intermediate: int, layers: int, heads: int, head_dim: int, encoders: int, latents: int, text: int
) -> dict[str, Any]:
    return {
        "model_type": "acestep",
        "hidden_size": width,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": head_dim,
        "num_lyric_encoder_hidden_layers": encoders,
        "num_timbre_encoder_hidden_layers": encoders // 2,
        "num_attention_pooler_hidden_layers": 2,
        "text_hidden_dim": text,
        "audio_acoustic_hidden_dim": latents,
        "timbre_hidden_dim": latents,
        "timbre_fix_frame": 750,
        "in_channels": 3 * latents,
        "patch_size": 2,
        "pool_window_size": 5,
        "fsq_dim": width,
        "fsq_input_levels": LEVELS,
        "fsq_input_num_quantizers": 1,
        "use_sliding_window": True,
        "sliding_window": 128,
        "rope_theta": 1_000_000,
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "is_turbo": False,
        "model_version": "base",
    }


def _autoencoder(channels: int, latents: int, multiples: tuple[int, ...] = (1, 2, 4, 8, 16)) -> dict[str, Any]:
    return {
        "_class_name": "AutoencoderOobleck",
        "audio_channels": 2,
        "channel_multiples": list(multiples),
        "decoder_channels": channels,
        "decoder_input_channels": latents,
        "downsampling_ratios": [2, 4, 4, 6, 10],
        "encoder_hidden_size": 2 * latents,
        "sampling_rate": 48_000,
    }


def _text_encoder(
    width: int, intermediate: int, layers: int, heads: int, head_dim: int, words: int
) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": head_dim,
        "vocab_size": words,
        "rope_theta": 1_000_000,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    }


SIZES = {
    size.name: size
    for size in (
        Size(
            "mini",
            _model(64, 160, 4, heads=4, head_dim=16, encoders=2, latents=8, text=64),
            _autoencoder(12, 8, (1, 1, 1, 2, 2)),
            _text_encoder(64, 128, 2, heads=4, head_dim=16, words=512),
        ),
        # A sixteen-channel autoencoder with the published ratios; a transformer of about 200 M weights.
        Size(
            "mid",
            _model(1024, 3072, 12, heads=8, head_dim=128, encoders=4, latents=8, text=256),
            _autoencoder(16, 8),
            _text_encoder(256, 768, 4, heads=4, head_dim=64, words=512),
        ),
        # The published 2B width and autoencoder, a third of the transformer's layers.
        Size(
            "wide",
            _model(2048, 6144, 8, heads=16, head_dim=128, encoders=8, latents=64, text=1024),
            _autoencoder(128, 64),
            _text_encoder(1024, 3072, 2, heads=16, head_dim=128, words=512),
        ),
        Size(
            "full",
            _model(2048, 6144, 24, heads=16, head_dim=128, encoders=8, latents=64, text=1024),
            _autoencoder(128, 64),
            _text_encoder(1024, 3072, 28, heads=16, head_dim=128, words=151_669),
        ),
    )
}
