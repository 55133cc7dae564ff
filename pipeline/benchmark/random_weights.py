"""Random weights with activations of order one, so that equality checks are meaningful."""

import math
from typing import Any

import torch
from torch import Tensor, nn

CODES_VARY = 1.0  # standard deviation of the encoder's latents
LOUDNESS = 0.2  # RMS of the decoder's waveform
SMALL = 0.1  # spread of biases, norm weights and snake parameters


@torch.no_grad()
def randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter so that each layer keeps the variance of activations."""
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            mean, spread = _mean_and_spread(part, name, weight)
            weight.normal_(mean, spread, generator=generator)
            if name == "weight_g":
                weight.abs_()
    module.eval().requires_grad_(False)


def _mean_and_spread(part: nn.Module, name: str, weight: Tensor) -> tuple[float, float]:
    if name == "weight_g":
        gain = _gain(part)
        return gain, SMALL * gain
    if name == "weight_v":
        return 0.0, 1.0
    if "Norm" in type(part).__name__:
        return 1.0, SMALL
    if name in ("bias", "alpha", "beta"):
        return 0.0, SMALL
    if name == "scale_shift_table":
        return 0.0, 0.3
    if isinstance(part, nn.ConvTranspose1d):
        return 0.0, weight.shape[0] ** -0.5  # patches do not overlap: one tap per output
    if isinstance(part, nn.Linear | nn.Conv1d):
        return 0.0, math.prod(weight.shape[1:]) ** -0.5
    return 0.0, 1.0


def _gain(part: nn.Module) -> float:
    """Norm of a weight-normed convolution's rows: one keeps the variance, to which the residual units add."""
    if isinstance(part, nn.ConvTranspose1d):
        stride = part.stride[0]
        return 0.5 * math.sqrt(part.out_channels * stride / part.in_channels)
    assert isinstance(part, nn.Conv1d)
    return 0.5 if part.kernel_size[0] == 1 or part.stride[0] > 1 else 1.0


@torch.no_grad()
def calibrate(vae: Any, source: Tensor, latents: Tensor) -> None:
    """Scale the last convolutions of a diffusers autoencoder, so that codes vary and the waveform is audible.

    Args:
        source: waveforms ``[b, a, s]``; latents: standard normal ``[b, c, t]``.
    """
    mean = vae.encode(source).latent_dist.mean
    last = vae.encoder.conv2
    last.weight_g *= CODES_VARY / mean.std()
    last.bias *= CODES_VARY / mean.std()
    vae.decoder.conv2.weight_g *= LOUDNESS / vae.decode(latents).sample.square().mean().sqrt()
