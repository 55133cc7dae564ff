"""How much memory the autoencoder takes, known before it is tried, so that the first tile fits.

The autoencoder decides: its last level holds 1920 samples of every channel per latent frame, while the
transformer's widest intermediate of a ten-minute track is a few hundred megabytes.
"""

import torch

from acestep.config import AutoencoderConfig

# Tensors of the full sample rate that are alive at once, measured (tests/acestep/test_memory.py): rows keep two
# and a rest of the level below; whole layers keep the skip, a convolution's input and output, and snake's wave.
LIVE_IN_ROWS = 2.3
LIVE_IN_WHOLE = 4.5
HEADROOM = 0.9  # of the free memory: allocators round up, and convolutions ask for workspace


def tile_bytes(config: AutoencoderConfig, frames: int, itemsize: int, in_rows: bool) -> int:
    """Memory beyond the weights that a tile of ``frames`` latent frames takes at its peak, in bytes."""
    hop = 1
    for ratio in config.ratios:
        hop *= ratio
    channels = max(config.decoder_channels, config.encoder_channels)
    live = LIVE_IN_ROWS if in_rows else LIVE_IN_WHOLE
    return int(live * frames * hop * channels * itemsize)


def longest_tile(config: AutoencoderConfig, free: int, itemsize: int, in_rows: bool, most: int, least: int) -> int:
    """The longest tile that fits into ``free`` bytes, in latent frames between ``least`` and ``most``."""
    per_frame = tile_bytes(config, 1, itemsize, in_rows)
    return max(least, min(most, int(HEADROOM * free) // per_frame))


def free_bytes(device: torch.device) -> int | None:
    """What a device can still give to this process; None for a CPU, which swaps rather than refuses."""
    if device.type != "cuda":
        return None
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held
