"""Adaptive projected guidance (Sadat et al. 2024): classifier-free guidance that does not saturate.

Legend: b batch, t latent frames, c latent channels.
"""

import torch
from torch import Tensor

MOMENTUM = -0.75
NORM_THRESHOLD = 2.5


def apg(
    conditional: Tensor,
    unconditional: Tensor,
    scale: float,
    momentum: Tensor | None = None,
    momentum_weight: float = MOMENTUM,
    norm_threshold: float = NORM_THRESHOLD,
) -> tuple[Tensor, Tensor]:
    """Guided velocity ``[b, t, c]`` and the momentum to hand to the next guided step.

    The difference of the two velocities, smoothed by (negative) momentum, is limited in norm and stripped of
    the part parallel to the conditional velocity. Norms and projections run over time, per channel.

    Args:
        momentum: what the last guided step returned; None on the first.
    """
    difference = conditional - unconditional
    if momentum is not None:
        difference = difference + momentum_weight * momentum
    momentum = difference
    norm = difference.norm(dim=1, keepdim=True)
    difference = difference * (norm_threshold / norm).clamp(max=1.0)
    direction = torch.nn.functional.normalize(conditional.double(), dim=1)
    wide = difference.double()
    orthogonal = wide - (wide * direction).sum(dim=1, keepdim=True) * direction
    return conditional + (scale - 1) * orthogonal.to(conditional.dtype), momentum
