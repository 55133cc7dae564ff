"""The Oobleck autoencoder (Evans et al. 2024): 48 kHz stereo to 25 Hz latents and back.

Unlike diffusers' ``AutoencoderOobleck``, this implementation folds weight norm at load time, decodes in exact
tiles, and is independent of the number of threads. Results agree up to rounding (tests/parity).

Legend: b batch, a audio channels, s samples, c latent channels, t = floor(s / 1920) latent frames.
"""

import logging
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from acestep.model.autoencoder_cpu import decode_rows, encode_rows
from acestep.model.config import AutoencoderConfig
from acestep.model.cpu_dispatch import works_in_rows
from acestep.model.tile_memory import longest_tile, total_bytes
from acestep.runtime.threads import parallel_ops, serial_ops

# Receptive fields in latent frames to each side. With this overlap the core of a tile equals the untiled result;
# with one frame less it does not.
DECODER_OVERLAP_FRAMES = 9
ENCODER_OVERLAP_FRAMES = 7
CHUNK_FRAMES = 512
MIN_CORE_FRAMES = 16  # smallest core of a tile
log = logging.getLogger(__name__)


class Snake(nn.Module):
    """x + sin^2(exp(alpha) x) / exp(beta), per channel (Ziyin et al. 2020, log-scaled)."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1, channels, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        wave = torch.sin(x * self.alpha.exp()).square_()
        return torch.addcmul(x, wave, 1 / (self.beta.exp() + 1e-9))


class ResidualUnit(nn.Module):
    """Dilated convolution and pointwise convolution around a skip."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.snake1 = Snake(channels)
        self.conv1 = nn.Conv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation)
        self.snake2 = Snake(channels)
        self.conv2 = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.snake2(self.conv1(self.snake1(x))))


class EncoderBlock(nn.Module):
    """Three residual units, then a strided convolution."""

    def __init__(self, channels: int, out_channels: int, stride: int):
        super().__init__()
        self.res_unit1 = ResidualUnit(channels, 1)
        self.res_unit2 = ResidualUnit(channels, 3)
        self.res_unit3 = ResidualUnit(channels, 9)
        self.snake1 = Snake(channels)
        self.conv1 = nn.Conv1d(channels, out_channels, 2 * stride, stride, padding=(stride + 1) // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(self.snake1(self.res_unit3(self.res_unit2(self.res_unit1(x)))))


class DecoderBlock(nn.Module):
    """A transposed convolution, then three residual units."""

    def __init__(self, channels: int, out_channels: int, stride: int):
        super().__init__()
        self.snake1 = Snake(channels)
        self.conv_t1 = nn.ConvTranspose1d(channels, out_channels, 2 * stride, stride, padding=(stride + 1) // 2)
        self.res_unit1 = ResidualUnit(out_channels, 1)
        self.res_unit2 = ResidualUnit(out_channels, 3)
        self.res_unit3 = ResidualUnit(out_channels, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.res_unit3(self.res_unit2(self.res_unit1(self.conv_t1(self.snake1(x)))))


class Encoder(nn.Module):
    """Waveforms ``[b, a, s]`` to the posterior's mean and scale ``[b, 2c, t]``."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths = [config.encoder_channels * m for m in (1, *config.multiples)]
        self.conv1 = nn.Conv1d(config.audio_channels, widths[0], 7, padding=3)
        self.block = nn.ModuleList(
            EncoderBlock(i, o, s) for i, o, s in zip(widths, widths[1:], config.ratios, strict=False)
        )
        self.snake1 = Snake(widths[-1])
        self.conv2 = nn.Conv1d(widths[-1], config.encoder_channels, 3, padding=1)

    @property
    def blocks(self) -> list[EncoderBlock]:
        return cast(list[EncoderBlock], list(self.block))

    def forward(self, x: Tensor) -> Tensor:
        if works_in_rows(self, x):
            with serial_ops():
                return torch.stack([encode_rows(self, one.T).T for one in x])
        return self.in_whole(x)

    def in_whole(self, x: Tensor) -> Tensor:
        """Run the layers one after the other, as on a GPU; the reference for ``encode_rows``."""
        x = self.conv1(x)
        for block in self.block:
            x = block(x)
        return self.conv2(self.snake1(x))


class Decoder(nn.Module):
    """Latents ``[b, c, t]`` to waveforms ``[b, a, 1920 t]``."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths = [config.decoder_channels * m for m in (1, *config.multiples)][::-1]
        self.conv1 = nn.Conv1d(config.latent_channels, widths[0], 7, padding=3)
        self.block = nn.ModuleList(
            DecoderBlock(i, o, s) for i, o, s in zip(widths, widths[1:], reversed(config.ratios), strict=False)
        )
        self.snake1 = Snake(widths[-1])
        self.conv2 = nn.Conv1d(widths[-1], config.audio_channels, 7, padding=3, bias=False)

    @property
    def blocks(self) -> list[DecoderBlock]:
        return cast(list[DecoderBlock], list(self.block))

    def forward(self, x: Tensor) -> Tensor:
        if works_in_rows(self, x):
            with serial_ops():
                return torch.stack([decode_rows(self, one.T).T for one in x])
        return self.in_whole(x)

    def in_whole(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for block in self.block:
            x = block(x)
        return self.conv2(self.snake1(x))


class Autoencoder(nn.Module):
    """Encodes waveforms to the mean of the latent posterior and decodes latents, in exact tiles."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        self.hop = 1
        for ratio in config.ratios:
            self.hop *= ratio
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.conv2.weight.dtype

    def posterior(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and raw scale ``[b, c, t]`` of waveforms ``[b, a, s]``; std is softplus(scale) + 1e-4."""
        mean, scale = self.encoder(audio.to(self.dtype)).chunk(2, dim=1)
        return mean, scale

    def encode(
        self, audio: Tensor, chunk_frames: int | None = None, overlap_frames: int = ENCODER_OVERLAP_FRAMES
    ) -> Tensor:
        """Waveforms ``[b, a, s]`` in [-1, 1] -> latents ``[b, t, c]`` (fp32), the posterior's mean.

        Args:
            chunk_frames: tile length; None chooses it by the device's memory.
        """
        whole = lambda piece: self.posterior(piece)[0].float()  # noqa: E731
        chunk = self._chunk_frames(audio, overlap_frames) if chunk_frames is None else chunk_frames
        with parallel_ops(audio):
            latents = _tiled(whole, audio, chunk, overlap_frames, self.hop, 1)
        return latents[..., : audio.shape[-1] // self.hop].transpose(1, 2)

    def decode(
        self, latents: Tensor, chunk_frames: int | None = None, overlap_frames: int = DECODER_OVERLAP_FRAMES
    ) -> Tensor:
        """Latents ``[b, t, c]`` -> waveforms ``[b, a, 1920 t]`` (fp32), peaks not limited.

        Args:
            chunk_frames: as in ``encode``.
        """
        whole = lambda piece: self.decoder(piece.to(self.dtype)).float()  # noqa: E731
        chunk = self._chunk_frames(latents, overlap_frames) if chunk_frames is None else chunk_frames
        with parallel_ops(latents):
            return _tiled(whole, latents.transpose(1, 2), chunk, overlap_frames, 1, self.hop)

    def _chunk_frames(self, x: Tensor, overlap: int) -> int:
        """The default tile length, or a shorter one that fits the device's memory."""
        total = total_bytes(x.device)
        if total is None:
            return CHUNK_FRAMES
        min_frames = MIN_CORE_FRAMES + 2 * overlap
        return longest_tile(self.config, len(x), total, self.dtype.itemsize, CHUNK_FRAMES, min_frames)


def _tiled(
    whole: Callable[[Tensor], Tensor], x: Tensor, chunk: int, overlap: int, unit_in: int, unit_out: int
) -> Tensor:
    """Apply ``whole`` along the last axis in tiles; ``chunk`` and ``overlap`` count latent frames.

    ``unit_in`` and ``unit_out`` are samples per latent frame of the input and of the output. Each tile is its core
    extended by ``overlap`` on both sides; only the core of the result is kept. After an out-of-memory error the
    tile length is halved.

    Raises:
        torch.OutOfMemoryError: the shortest tile does not fit.
    """
    length = x.shape[-1]
    min_frames = MIN_CORE_FRAMES + 2 * overlap
    pieces: list[Tensor] = []
    start = 0
    while start < length:
        stride = length if length <= chunk * unit_in else (chunk - 2 * overlap) * unit_in
        if stride <= 0:
            raise ValueError(
                f"chunk of {chunk} frames leaves nothing between overlaps of {overlap} frames; give more than "
                f"{2 * overlap}"
            )
        stop = min(start + stride, length)
        left = max(start - overlap * unit_in, 0)
        right = min(stop + overlap * unit_in, length)
        piece = _unless_out_of_memory(whole, x[..., left:right], last_try=chunk <= min_frames)
        if piece is None:
            # Cores do not depend on the tile length, so finished tiles remain valid.
            too_long = min(chunk, -(-length // unit_in))
            chunk = max(too_long // 2, min_frames)
            log.warning("out of memory with tiles of %d latent frames; going on with %d", too_long, chunk)
            torch.cuda.empty_cache()
            continue
        skip = (start - left) // unit_in * unit_out
        core = (stop - start) // unit_in * unit_out
        pieces.append(piece if stride == length else piece[..., skip : skip + core])
        start = stop
    return torch.cat(pieces, dim=-1) if len(pieces) > 1 else pieces[0]


def _unless_out_of_memory(whole: Callable[[Tensor], Tensor], tile: Tensor, last_try: bool) -> Tensor | None:
    """Process a tile; None if memory does not suffice and ``last_try`` is False.

    A separate function, because the exception keeps the layers' allocations alive until the function returns.
    """
    try:
        return whole(tile)
    except torch.OutOfMemoryError:
        if last_try:
            raise
        return None


def weight_norm_shapes(model: Autoencoder) -> dict[str, tuple[int, ...]]:
    """Tensor shapes of a published autoencoder file, with convolution weights split into direction and norm."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in model.state_dict().items():
        if name.endswith(".weight"):
            shapes[f"{name}_g"] = (tensor.shape[0], 1, 1)
            shapes[f"{name}_v"] = tuple(tensor.shape)
        else:
            shapes[name] = tuple(tensor.shape)
    return shapes


def fold_weight_norm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """W = g v / ||v||, the norm over all axes but the first, in fp32 (Salimans & Kingma 2016)."""
    folded = {name: tensor for name, tensor in tensors.items() if not name.endswith(("weight_g", "weight_v"))}
    for name, norm in tensors.items():
        if name.endswith(".weight_g"):
            direction = tensors[f"{name[:-1]}v"].float()
            length = direction.flatten(1).norm(dim=1).reshape(-1, 1, 1)
            folded[name[:-2]] = norm.float() * direction / length
    return folded
