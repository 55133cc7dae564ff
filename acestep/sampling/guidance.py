"""Guidance: combine the conditional and the unconditional velocity.

Legend: b batch, t latent frames, c latent channels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MOMENTUM = -0.75
NORM_THRESHOLD = 2.5
ADG_CLIP = {"adg": 3.14 / 6, "adg_w_norm": 3.14 / 3, "adg_wo_clip": math.inf}


def cfg(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022): ``[b, t, c]``."""
    return unconditional + scale * (conditional - unconditional)


def apg(
    conditional: Tensor,
    unconditional: Tensor,
    scale: float,
    momentum: Tensor | None = None,
    momentum_weight: float = MOMENTUM,
    norm_threshold: float = NORM_THRESHOLD,
) -> tuple[Tensor, Tensor]:
    """Adaptive projected guidance (Sadat et al. 2024), which avoids oversaturation.

    The difference of the velocities, with (negative) momentum, is limited in norm and projected orthogonally to
    the conditional velocity. Norms and projections are over time, per channel.

    Args:
        momentum: momentum returned by the previous guided step; None on the first.

    Returns:
        The guided velocity ``[b, t, c]`` and the momentum for the next guided step.
    """
    difference = conditional - unconditional
    if momentum is not None:
        difference = difference + momentum_weight * momentum
    momentum = difference
    norm = difference.norm(dim=1, keepdim=True)
    difference = difference * (norm_threshold / norm).clamp(max=1.0)
    direction = F.normalize(conditional.double(), dim=1)
    wide = difference.double()
    orthogonal = wide - (wide * direction).sum(dim=1, keepdim=True) * direction
    return conditional + (scale - 1) * orthogonal.to(conditional.dtype), momentum


def adg(
    conditional: Tensor, unconditional: Tensor, scale: float, x: Tensor, t: float, variant: str = "adg"
) -> Tensor:
    """Angle-based dynamic guidance: rotate the data estimate away from the unconditional one.

    Per frame, the angle between the two estimates ``x - t v`` is multiplied by the guidance weight and limited to
    30 degrees ("adg_wo_clip": unlimited; "adg_w_norm": 60 degrees, and each channel's norm over time is
    preserved).

    Args:
        x: the state ``[b, t, c]`` of both velocities, at flow time ``t`` > 0.
        variant: a key of ``ADG_CLIP``.
    """
    weight = scale - 1 + 1e-3
    data, plain = x - t * conditional, x - t * unconditional
    cosine = F.cosine_similarity(data.double(), plain.double(), dim=-1).clamp(-1 + 1e-6, 1 - 1e-6)
    angle = torch.acos(cosine).to(x.dtype)[..., None]
    turned = (weight * angle).clamp(max=ADG_CLIP[variant])
    difference = data - plain
    along = (difference * plain).sum(-1, keepdim=True) / ((plain * plain).sum(-1, keepdim=True) + 1e-8)
    across = difference - along * plain
    ratio = torch.where(angle.sin() > 1e-3, turned.sin() / angle.sin(), weight)
    guided = turned.cos() * data + across * ratio
    if variant == "adg_w_norm":
        guided = guided * data.norm(dim=1, keepdim=True) / (guided.norm(dim=1, keepdim=True) + 1e-8)
    return (x - guided) / t
