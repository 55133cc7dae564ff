"""GPU memory of autoencoder tiles, estimated so that the first tile fits.

The autoencoder dominates: its last level holds 1920 samples of every channel per latent frame, while the widest
intermediate of the transformer for a ten-minute track has a few hundred megabytes.
"""

import torch

from acestep.model.config import AutoencoderConfig

LIVE = 5.1  # live tensors at the full sample rate at peak (tests/acestep/model/test_tile_memory.py)
SHARE = 0.25  # share of the device memory for a tile; the rest is for weights and convolution workspaces


def tile_bytes(config: AutoencoderConfig, rows: int, frames: int, itemsize: int) -> int:
    """Peak memory in bytes, without weights, of a tile of ``frames`` latent frames and ``rows`` batch rows."""
    hop = 1
    for ratio in config.ratios:
        hop *= ratio
    channels = max(config.decoder_channels, config.encoder_channels)
    return int(LIVE * rows * frames * hop * channels * itemsize)


def longest_tile(
    config: AutoencoderConfig, rows: int, total: int, itemsize: int, max_frames: int, min_frames: int
) -> int:
    """Longest tile in latent frames for a device of ``total`` bytes, within ``min_frames`` and ``max_frames``."""
    per_frame = tile_bytes(config, rows, 1, itemsize)
    return max(min_frames, min(max_frames, int(SHARE * total) // per_frame))


def total_bytes(device: torch.device) -> int | None:
    """Total memory of a GPU; None for a CPU.

    Not the free memory: the tile length affects the last bits, which must not depend on other processes.
    """
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
