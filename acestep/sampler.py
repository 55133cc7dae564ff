"""Runs lanes: one lane is one generation (noise, plan, conditions), and all advance in lock-step.

Legend: t latent frames, c latent channels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acestep.cover import CoverPlan
from acestep.guidance import apg
from acestep.transformer import ConstantCrossAttention, CrossAttention, DiffusionTransformer, Modulation


@dataclass(frozen=True)
class Branch:
    """What the network reads beside the state: context ``[1, t, 2c]`` and one condition's keys and values."""

    context: Tensor
    cross: CrossAttention


@dataclass(frozen=True)
class Lane:
    """One generation: start noise ``[1, t, c]`` (fp32), plan, and a branch for each name the plan uses."""

    noise: Tensor
    plan: CoverPlan
    branches: Mapping[str, Branch]


def initial_noise(seed: int, frames: int, channels: int) -> Tensor:
    """Standard normal ``[1, t, c]``, drawn in fp32 on the CPU so that every machine draws the same."""
    return torch.randn(1, frames, channels, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def denoise(
    transformer: DiffusionTransformer,
    null: ConstantCrossAttention,
    lanes: Sequence[Lane],
    on_step: Callable[[int, int], None] | None = None,
) -> list[Tensor]:
    """Integrate each lane from noise to latents ``[1, t, c]`` (fp32) by Euler steps.

    A lane's evaluations are its own, so its result does not depend on its neighbours.

    Args:
        null: the model's null condition, read by guided steps.
        on_step: called with (steps done, steps in all) after each step of the longest lane.
    """
    states = [lane.noise for lane in lanes]
    momenta: list[Tensor | None] = [None] * len(lanes)
    modulations = [_modulation(transformer, lane) for lane in lanes]
    total = max((len(lane.plan.steps) for lane in lanes), default=0)
    for i in range(total):
        for k, lane in enumerate(lanes):
            if i >= len(lane.plan.steps):
                continue
            step, branch, at = (
                lane.plan.steps[i],
                lane.branches[lane.plan.steps[i].branch],
                modulations[k].at(i),
            )
            velocity = transformer(states[k], branch.context, at, branch.cross)
            if step.guided:
                unconditional = transformer(states[k], branch.context, at, null)
                velocity, momenta[k] = apg(velocity, unconditional, lane.plan.guidance_scale, momenta[k])
            states[k] = states[k] - velocity * (step.t - step.t_next)
        if on_step is not None:
            on_step(i + 1, total)
    return states


def _modulation(transformer: DiffusionTransformer, lane: Lane) -> Modulation:
    times = torch.tensor([step.t for step in lane.plan.steps], device=lane.noise.device)
    return transformer.modulation(times)
