"""Encoder and decoder, each trained by itself on the teacher's latents; the modules are
``acestep.model.autoencoder``'s.

The first and last level, at 48 kHz, is a linear filter bank: a strided convolution of 48 taps, and its residual
units are the identity. Training leaves them out, which makes it several times cheaper; an export has them.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acestep.model.autoencoder import Autoencoder, Decoder, Encoder, ResidualUnit, Snake
from acestep.model.config import parse_autoencoder_config
from pipeline.demo_model.spectra import EDGE_FRAMES, LOWEST_PHASE_HZ, OCTAVES, log_bands, mid
from pipeline.demo_model.teacher import CHANNELS, SPECTRAL

CONFIG = {
    "_class_name": "AutoencoderOobleck",
    "audio_channels": 2,
    "channel_multiples": [1, 3, 4],
    "decoder_channels": 48,
    "decoder_input_channels": CHANNELS,
    "downsampling_ratios": [24, 10, 8],
    "encoder_hidden_size": 2 * CHANNELS,
    "sampling_rate": 48_000,
}
NEVER = -200.0  # a Snake's log frequency at which it is the identity
POSTERIOR_SCALE = -2.0  # constant; inference takes the posterior's mean
RESOLUTIONS = ((4096, 1024, 700, 0.5), (1024, 384, 400, 0.5), (256, 96, 129, 0.3))  # window, hop, bins, weight
FAR = 2.0  # standard deviations of latents
FAINT = 1e-4  # amplitude under which a bin's level does not matter
PHASE_WINDOW, PHASE_HOP = 5760, 1920
MAX_GAIN_DB = 3.0


def build(seed: int) -> Autoencoder:
    """An autoencoder before training; what is never trained asks for no gradient."""
    torch.manual_seed(seed)
    autoencoder = Autoencoder(parse_autoencoder_config(CONFIG, "vae"))
    encoder, decoder = autoencoder.encoder, autoencoder.decoder
    for module in autoencoder.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            transposed = isinstance(module, nn.ConvTranspose1d)
            reads = module.weight.numel() / module.out_channels / (module.stride[0] if transposed else 1)
            nn.init.normal_(module.weight, std=reads**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, ResidualUnit):
            module.conv2.weight.data.mul_(0.3)
    outer = (encoder.blocks[0], decoder.blocks[-1])
    later = (encoder.blocks[1], decoder.blocks[-2])  # at 2 kHz one unit is enough
    units = [unit for block in outer for unit in (block.res_unit1, block.res_unit2, block.res_unit3)]
    for unit in units + [unit for block in later for unit in (block.res_unit2, block.res_unit3)]:
        _make_identity(unit)
    for snake in (encoder.blocks[0].snake1, decoder.snake1):
        _silence(snake)
    for conv in (encoder.conv1, decoder.conv2):
        conv.weight.data.zero_()
        for channel in range(2):
            conv.weight.data[channel, channel, 3] = 1
        conv.requires_grad_(False)
    bank = _filter_bank(encoder.blocks[0].conv1.out_channels)
    encoder.blocks[0].conv1.weight.data.zero_()[:, :2] = bank
    decoder.blocks[-1].conv_t1.weight.data.zero_()[:, :2] = 0.1 * bank[: decoder.blocks[-1].conv_t1.in_channels]
    encoder.conv2.weight.data[:CHANNELS] *= 0.5
    encoder.conv2.weight.data[CHANNELS:] = 0
    assert encoder.conv2.bias is not None
    encoder.conv2.bias.data[CHANNELS:] = POSTERIOR_SCALE
    return autoencoder


def _make_identity(unit: ResidualUnit) -> None:
    unit.requires_grad_(False)
    for conv in (unit.conv1, unit.conv2):
        conv.weight.data.zero_()
        if conv.bias is not None:
            conv.bias.data.zero_()
    _silence(unit.snake1)
    _silence(unit.snake2)


def _silence(snake: Snake) -> None:
    snake.requires_grad_(False)
    snake.alpha.data.fill_(NEVER)


def _filter_bank(channels: int) -> Tensor:
    """Windowed waves of 1 ms ``[channels, 2, 48]``: the sum and difference of the lows first, then random ones."""
    taps = torch.arange(48) - 23.5
    window = torch.hann_window(50)[1:-1] / 24
    hertz = 12_000 * torch.rand(channels).square()
    hertz[:4] = torch.tensor([0.0, 0.0, 700.0, 700.0])
    turn = 2 * math.pi * torch.rand(channels)
    turn[:4] = torch.tensor([0.0, 0.0, 0.0, math.pi / 2])
    waves = torch.cos(2 * math.pi * hertz[:, None] * taps / 48_000 + turn[:, None]) * window
    pan = torch.randn(channels, 2)
    pan[:4] = torch.tensor([[1.0, 1.0], [1.0, -1.0], [1.0, 1.0], [1.0, 1.0]])
    return F.normalize(pan, dim=1)[:, :, None] * waves[:, None] * 2


def _snake(x: Tensor, snake: Snake) -> Tensor:
    return x + torch.sin(x * snake.alpha.exp().to(x.dtype)).square() / (snake.beta.exp() + 1e-9).to(x.dtype)


def _unit(x: Tensor, unit: ResidualUnit) -> Tensor:
    return x + unit.conv2(_snake(unit.conv1(_snake(x, unit.snake1)), unit.snake2))


def encode(encoder: Encoder, audio: Tensor) -> Tensor:
    """The posterior's mean ``[b, t, c]`` of ``[b, 2, s]``, without the layers that are the identity."""
    outer, middle, inner = encoder.blocks
    bank = outer.conv1
    x = F.conv1d(audio, bank.weight[:, :2], bank.bias, bank.stride, bank.padding)
    x = middle.conv1(_snake(_unit(x, middle.res_unit1), middle.snake1))
    for unit in (inner.res_unit1, inner.res_unit2, inner.res_unit3):
        x = _unit(x, unit)
    x = inner.conv1(_snake(x, inner.snake1))
    x = encoder.conv2(_snake(x, encoder.snake1))[:, :CHANNELS]
    return x.transpose(1, 2).float()


def decode(decoder: Decoder, latents: Tensor) -> Tensor:
    """Waveforms ``[b, 2, s]`` of ``[b, t, c]``, without the layers that are the identity."""
    inner, middle, outer = decoder.blocks
    x = decoder.conv1(latents.transpose(1, 2))
    x = inner.conv_t1(_snake(x, inner.snake1))
    for unit in (inner.res_unit1, inner.res_unit2, inner.res_unit3):
        x = _unit(x, unit)
    x = _unit(middle.conv_t1(_snake(x, middle.snake1)), middle.res_unit1)
    bank = outer.conv_t1
    x = _snake(x, outer.snake1)
    assert bank.bias is not None
    return F.conv_transpose1d(x, bank.weight[:, :2], bank.bias[:2], stride=24, padding=12).float()


def encoder_losses(found: Tensor, wanted: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared error of latents ``[b, t, c]``, frames at the ends left out; beyond ``FAR`` it grows linearly.

    Now and then a loud bass drives a linear filter far out; squared, it would outweigh the whole batch.
    """
    found, wanted = (x[:, EDGE_FRAMES:-EDGE_FRAMES] for x in (found, wanted))
    error = 2 * F.huber_loss(found, wanted, reduction="none", delta=FAR).mean((0, 1))
    return error.mean(), {"spectral": error[:SPECTRAL].mean(), "phase": error[SPECTRAL:].mean()}


def decoder_losses(found: Tensor, wanted: Tensor, phase_weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """How far ``found`` ``[b, 2, s]`` sounds from ``wanted``: log spectra of several kinds, phase of the lows.

    Args:
        phase_weight: ``[b]``; 0 for a clip whose phase the decoder is not told.
    """
    parts: dict[str, Tensor] = {}
    for name, mine, other in zip(("notes", "mels", "sides"), log_bands(found), log_bands(wanted), strict=True):
        parts[name] = (mine - other).abs().mean()
    total = 1.5 * parts["notes"] + parts["mels"] + 0.4 * parts["sides"]
    one, two = mid(found), mid(wanted)
    for window, hop, bins, weight in RESOLUTIONS:
        hertz = torch.arange(bins, device=one.device) * 48_000 / window
        by_bin = 1 / (hertz + 300)
        by_bin = by_bin / by_bin.mean()
        level = lambda x: torch.log(_stft(x, window, hop, bins).abs() + FAINT)  # noqa: B023, E731
        parts[f"stft{window}"] = (by_bin * (level(one) - level(two)).abs()).mean()
        total = total + weight * parts[f"stft{window}"]
    parts["phase"] = (phase_weight * phase_error(one, two)).sum() / phase_weight.sum().clamp_min(1e-3)
    parts["level"] = level_error(one, two)
    return total + parts["phase"] * phase_weight.mean() + 0.5 * parts["level"], parts


def phase_error(found: Tensor, wanted: Tensor) -> Tensor:
    """1 - cos of the phase error ``[b]`` in each octave of the lows, weighted by amplitude: 0 exact, 1 chance.

    Levels do not matter to it: where a phase cannot be known, silence would be a better answer than a sound.
    """
    hertz = torch.arange(PHASE_WINDOW // 2 + 1, device=found.device) * 48_000 / PHASE_WINDOW
    top = int((hertz < LOWEST_PHASE_HZ * 2**OCTAVES).sum())
    octave = torch.log2(hertz[:top].clamp_min(1) / LOWEST_PHASE_HZ)
    member = torch.stack([(octave >= k) & (octave < k + 1) for k in range(OCTAVES)], dim=1).float()
    one, two = (_stft(x, PHASE_WINDOW, PHASE_HOP, top) for x in (found, wanted))
    amplitude = two.abs()
    cosine = (one * two.conj()).real / (one.abs() * amplitude + 1e-7)
    wrong, there = (x @ member for x in (amplitude * (1 - cosine), amplitude))
    return (wrong / (there + 1e-4)).mean((1, 2))


def level_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Error of the level of whole frames, in nepers; what is hard to match in detail would come out too quiet."""
    window, hop, _, _ = RESOLUTIONS[0]
    lowest = math.ceil(LOWEST_PHASE_HZ * window / 48_000)
    one, two = (
        torch.view_as_real(_stft(x, window, hop, window // 2 + 1)[..., lowest:]).square().sum((-1, -2))
        for x in (found, wanted)
    )
    return 0.5 * (torch.log(one + FAINT**2) - torch.log(two + FAINT**2)).abs().mean()


def _stft(x: Tensor, window: int, hop: int, bins: int) -> Tensor:
    """Spectra ``[b, frames, bins]`` of ``[b, s]``, scaled so that a sine has the magnitude of its amplitude."""
    hann = torch.hann_window(window, device=x.device) / (window / 4)
    return torch.fft.rfft(x.unfold(1, window, hop) * hann)[..., :bins]


@torch.no_grad()
def match_level(autoencoder: Autoencoder, audio: Tensor) -> float:
    """Scale the decoder so that decoded audio ``[n, 2, s]`` is as loud as the original on average; returns dB.

    Spectra that are matched in the logarithm come out a little quiet. The gain is at most ``MAX_GAIN_DB``.
    """
    decoded = torch.cat([autoencoder.decode(autoencoder.encode(clip[None])) for clip in audio])
    levels = [10 * torch.log10(x[..., : audio.shape[-1]].square().mean((1, 2)) + 1e-9) for x in (audio, decoded)]
    gain_db = float((levels[0] - levels[1]).mean().clamp(-MAX_GAIN_DB, MAX_GAIN_DB))
    bank = autoencoder.decoder.blocks[-1].conv_t1  # linear, and so is all that follows it
    bank.weight.data *= 10 ** (gain_db / 20)
    if bank.bias is not None:
        bank.bias.data *= 10 ** (gain_db / 20)
    return gain_db
