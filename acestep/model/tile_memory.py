"""How much of a GPU the autoencoder takes, known before it is tried, so that the first tile fits.

The autoencoder decides: its last level holds 1920 samples of every channel per latent frame, while the
transformer's widest intermediate of a ten-minute track is a few hundred megabytes.
"""

import torch

from acestep.model.config import AutoencoderConfig

LIVE = 5.1  # tensors of the full sample rate that are alive at once (tests/acestep/model/test_tile_memory.py)
SHARE = 0.25  # of a device that a tile may take; the rest is for weights, and for workspace of convolutions


def tile_bytes(config: AutoencoderConfig, rows: int, frames: int, itemsize: int) -> int:
    """Memory beyond the weights that a tile of ``frames`` latent frames takes at its peak, in bytes.

    Args:
        rows: of the batch.
    """
    hop = 1
    for ratio in config.ratios:
        hop *= ratio
    channels = max(config.decoder_channels, config.encoder_channels)
    return int(LIVE * rows * frames * hop * channels * itemsize)


def longest_tile(
    config: AutoencoderConfig, rows: int, total: int, itemsize: int, max_frames: int, min_frames: int
) -> int:
    """The longest tile for a device of ``total`` bytes, in latent frames between ``min_frames`` and
    ``max_frames``."""
    per_frame = tile_bytes(config, rows, 1, itemsize)
    return max(min_frames, min(max_frames, int(SHARE * total) // per_frame))


def total_bytes(device: torch.device) -> int | None:
    """Memory of a GPU; None for a CPU.

    All of it, not what is free: a tile's length shows in the last bits, which must not depend on neighbours.
    """
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
