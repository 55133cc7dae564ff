"""Check every file of a checkpoint without loading the weights."""

from pathlib import Path

from acestep.checkpoints.checkpoint import load_silence, open_autoencoder, open_model
from acestep.checkpoints.folders import CheckpointFolders
from acestep.checkpoints.hub import naming_the_command
from acestep.checkpoints.lora import check_fit, open_adapter
from acestep.checkpoints.qwen3 import check_text_encoder
from acestep.constants import HOP, SAMPLE_RATE
from acestep.errors import CheckpointError
from acestep.model.config import AutoencoderConfig, ModelConfig


def verify(folders: CheckpointFolders, adapter: Path | None = None) -> ModelConfig:
    """Check the tensors of a checkpoint, the consistency of its parts, and optionally an adapter.

    Raises:
        CheckpointError: a part is missing, damaged, of another kind or of another model.
    """
    lora = open_adapter(adapter) if adapter is not None else None
    with naming_the_command(folders):
        model = open_model(folders.model, folders.name)
        load_silence(folders.model, model.config.latent_channels)
        autoencoder = open_autoencoder(folders.autoencoder)
        text_encoder = check_text_encoder(folders.text_encoder)
        check_parts(folders, model.config, autoencoder.config, autoencoder.hop, text_encoder.hidden_size)
    if lora is not None:
        check_fit(lora, model.decoder)
    return model.config


def check_parts(
    folders: CheckpointFolders, model: ModelConfig, autoencoder: AutoencoderConfig, hop: int, text_width: int
) -> None:
    """Check the sizes at the interfaces of a checkpoint's parts.

    Raises:
        CheckpointError: the autoencoder or the text encoder belongs to another model.
    """
    if (autoencoder.latent_channels, hop) != (model.latent_channels, HOP):
        raise CheckpointError(
            "mismatched_weights",
            f"{autoencoder.latent_channels} channels at one frame per {hop} samples, but the model "
            f"reads {model.latent_channels} at one per {HOP}",
            where=folders.autoencoder,
        )
    if autoencoder.sample_rate != SAMPLE_RATE:
        reason = f"made for {autoencoder.sample_rate} Hz, expected {SAMPLE_RATE} Hz"
        raise CheckpointError("mismatched_weights", reason, where=folders.autoencoder)
    if text_width != model.text_channels:
        raise CheckpointError(
            "mismatched_weights",
            f"hidden_size {text_width}, but the model reads {model.text_channels}",
            where=folders.text_encoder,
        )
