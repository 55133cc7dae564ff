"""Wavelet correction of a step (DCW): move the new state away from the step's estimate of the data.

Both are split over time by a one-level orthonormal Haar wavelet into a low and a high band. Early steps move
mainly the low band, late steps the high band.

Legend: b batch, t latent frames, c latent channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from acestep.sampling.plan import Dcw

ROOT_HALF = 0.5**0.5


def dcw(x: Tensor, estimate: Tensor, t: float, setting: Dcw) -> Tensor:
    """Correct the state ``[b, t, c]`` after a step from flow time ``t``.

    Modes: "double" low += t * scaler * (low - low of the estimate) and high += (1 - t) * high_scaler * (...);
    "low" only the first; "high" only the second, with ``scaler``; "pix" x += scaler * (x - estimate), no wavelet.

    Args:
        estimate: the step's estimate of the data.
    """
    if setting.mode == "pix":
        return x + setting.scaler * (x - estimate)
    high = setting.high_scaler if setting.mode == "double" else setting.scaler
    return push_bands(
        x,
        estimate,
        low=0.0 if setting.mode == "high" else t * setting.scaler,
        high=0.0 if setting.mode == "low" else (1 - t) * high,
    )


def push_bands(x: Tensor, estimate: Tensor, low: float, high: float) -> Tensor:
    """Move each band of ``x`` ``[b, t, c]`` away from that of ``estimate`` by a share of their difference."""
    x_low, x_high = haar(x)
    low_0, high_0 = haar(estimate)
    pushed = inverse_haar(x_low + low * (x_low - low_0), x_high + high * (x_high - high_0))
    return pushed[:, : x.shape[1]]


def haar(x: Tensor) -> tuple[Tensor, Tensor]:
    """Low and high band ``[b, ceil(t / 2), c]``; odd lengths are zero-padded."""
    pairs = F.pad(x, (0, 0, 0, x.shape[1] % 2)).unflatten(1, (-1, 2))
    first, second = pairs.unbind(2)
    return (first + second) * ROOT_HALF, (first - second) * ROOT_HALF


def inverse_haar(low: Tensor, high: Tensor) -> Tensor:
    """``[b, 2 * frames, c]`` from its two bands."""
    return torch.stack(((low + high) * ROOT_HALF, (low - high) * ROOT_HALF), dim=2).flatten(1, 2)
