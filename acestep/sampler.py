"""Runs lanes: one lane is one generation (start, plan, conditions), and all advance in lock-step.

Legend: t latent frames, c latent channels.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acestep.correction import dcw
from acestep.cover import Branch, CoverPlan, Step
from acestep.guidance import adg, apg, cfg
from acestep.transformer import ConstantCrossAttention, CrossAttention, DiffusionTransformer, Modulation


@dataclass(frozen=True)
class Condition:
    """What the network reads beside the state: context ``[1, t, 2c]`` and one prompt's keys and values."""

    context: Tensor
    cross: CrossAttention


@dataclass(frozen=True)
class Lane:
    """One generation.

    start: the state ``[1, t, c]`` (fp32) at the first step: noise, the noised source, or for flow-edit the source.
    conditions: for every branch of the plan.
    draw: fresh noise ``[1, t, c]``, by a running number; read by SDE steps and flow-edit.
    """

    plan: CoverPlan
    start: Tensor
    conditions: Mapping[Branch, Condition]
    draw: Callable[[int], Tensor]


def initial_noise(seed: int, frames: int, channels: int) -> Tensor:
    """Standard normal ``[1, t, c]``, drawn in fp32 on the CPU so that every machine draws the same."""
    return torch.randn(1, frames, channels, generator=torch.Generator().manual_seed(seed))


def fresh_noise(seed: int, number: int, frames: int, channels: int) -> Tensor:
    """The ``number``-th further noise ``[1, t, c]`` of a seed, unrelated to any seed's start noise.

    The CPU generator keeps 32 bits of a seed, so the two are hashed together.
    """
    digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
    return initial_noise(int.from_bytes(digest[:4], "big"), frames, channels)


def retaken(noise: Tensor, other: Tensor, variance: float) -> Tensor:
    """``noise`` turned towards ``other`` by a share of a right angle, which keeps its variance."""
    angle = variance * math.pi / 2
    return math.cos(angle) * noise + math.sin(angle) * other


@torch.inference_mode()
def denoise(
    transformer: DiffusionTransformer,
    null: ConstantCrossAttention,
    lanes: Sequence[Lane],
    on_step: Callable[[int, int], None] | None = None,
) -> list[Tensor]:
    """Integrate each lane from its start to latents ``[1, t, c]`` (fp32).

    A lane's evaluations are its own, so its result does not depend on its neighbours.

    Args:
        null: the model's null condition, read by guided steps.
        on_step: called with (steps done, steps in all) after each step of the longest lane.
    """
    runs = [_Run(transformer, null, lane) for lane in lanes]
    total = max((len(lane.plan.steps) for lane in lanes), default=0)
    for i in range(total):
        for run in runs:
            if i < len(run.plan.steps):
                run.advance(i)
        if on_step is not None:
            on_step(i + 1, total)
    return [run.x for run in runs]


class _Run:
    """One lane under way: its state, the guidance momentum of each branch, the last velocity, the noise used."""

    def __init__(self, transformer: DiffusionTransformer, null: ConstantCrossAttention, lane: Lane):
        self.transformer, self.null, self.lane, self.plan = transformer, null, lane, lane.plan
        self.x = lane.start
        self.momenta: dict[str, Tensor] = {}
        self.last_velocity: Tensor | None = None
        self.drawn = 0
        steps = lane.plan.steps
        times = torch.tensor([*(step.t for step in steps), steps[-1].t_next], device=lane.start.device)
        self.modulation = transformer.modulation(times)

    def advance(self, i: int) -> None:
        """Take step ``i``."""
        step, at = self.plan.steps[i], self.modulation.at(i)
        if step.edit_from is not None:
            velocity = self._settled(self._edit_velocity(step, step.edit_from, at), self.x)
            self.x = self.x - velocity * (step.t - step.t_next)
            self.last_velocity = velocity
            return
        if self.plan.edit is not None and (i == 0 or self.plan.steps[i - 1].edit_from is not None):
            self.x = self.x + self._noised_source(step.t) - self.lane.start
        velocity = self._settled(self._velocity(self.x, step, at), self.x)
        estimate = self.x - velocity * step.t
        if step.renoise is not None:
            self.x = self._renoised(estimate, step.renoise)
        else:
            if step.corrected:
                velocity = (velocity + self._correction(step, velocity, self.modulation.at(i + 1))) / 2
            self.x = self.x - velocity * (step.t - step.t_next)
            if self.plan.dcw is not None:
                self.x = dcw(self.x, estimate, step.t, self.plan.dcw)
        self.last_velocity = velocity

    def _velocity(self, x: Tensor, step: Step, at: Modulation) -> Tensor:
        if step.guided:
            velocity = self._guided(*self._evaluate_both(x, step.branch, at), x, step.t)
        else:
            velocity = self._evaluate(x, step.branch, at)
        return self._mixed(velocity, x, step, at)

    def _correction(self, step: Step, velocity: Tensor, at: Modulation) -> Tensor:
        """Heun's second velocity, where the first one leads; its guidance is plain, without momentum."""
        x = self.x - velocity * (step.t - step.t_next)
        if step.correction_guided:
            second = cfg(*self._evaluate_both(x, step.branch, at), self.plan.guidance_scale)
        else:
            second = self._evaluate(x, step.branch, at)
        second = self._limited(self._mixed(second, x, step, at), x)
        share = self.plan.velocity_ema_factor
        return (1 - share) * second + share * velocity

    def _edit_velocity(self, step: Step, origin: Branch, at: Modulation) -> Tensor:
        """Mean over noise draws of (velocity towards the target caption) - (velocity towards the source's)."""
        sides: dict[str, list[Tensor]] = {"target": [], "source": []}
        momenta: dict[str, list[Tensor]] = {"target": [], "source": []}
        for _ in range(step.draws):
            noised = self._noised_source(step.t)
            moved = self.x + noised - self.lane.start
            for side, x, branch in (("target", moved, step.branch), ("source", noised, origin)):
                if step.guided:
                    both = self._evaluate_both(x, branch, at)
                    velocity, momentum = apg(*both, self.plan.guidance_scale, self.momenta.get(side))
                    momenta[side].append(momentum)
                else:
                    velocity = self._evaluate(x, branch, at)
                sides[side].append(velocity)
        for side, values in momenta.items():
            if values:
                self.momenta[side] = torch.stack(values).mean(0)
        return (torch.stack(sides["target"]) - torch.stack(sides["source"])).mean(0)

    def _evaluate(self, x: Tensor, branch: Branch, at: Modulation) -> Tensor:
        condition = self.lane.conditions[branch]
        return self.transformer(x, condition.context, at, condition.cross)

    def _evaluate_both(self, x: Tensor, branch: Branch, at: Modulation) -> tuple[Tensor, Tensor]:
        """The conditional and the unconditional velocity."""
        condition = self.lane.conditions[branch]
        return self.transformer.guided(x, condition.context, at, condition.cross, self.null)

    def _guided(self, conditional: Tensor, unconditional: Tensor, x: Tensor, t: float) -> Tensor:
        kind, scale = self.plan.guidance, self.plan.guidance_scale
        if kind == "apg":
            velocity, self.momenta["target"] = apg(conditional, unconditional, scale, self.momenta.get("target"))
            return velocity
        if kind == "cfg":
            return cfg(conditional, unconditional, scale)
        return adg(conditional, unconditional, scale, x, t, kind)

    def _mixed(self, velocity: Tensor, x: Tensor, step: Step, at: Modulation) -> Tensor:
        if step.other is None:
            return velocity
        return step.weight * velocity + (1 - step.weight) * self._evaluate(x, step.other, at)

    def _settled(self, velocity: Tensor, x: Tensor) -> Tensor:
        """The velocity limited in norm and mixed with the last step's."""
        velocity, share = self._limited(velocity, x), self.plan.velocity_ema_factor
        if share == 0 or self.last_velocity is None:
            return velocity
        return (1 - share) * velocity + share * self.last_velocity

    def _limited(self, velocity: Tensor, x: Tensor) -> Tensor:
        threshold = self.plan.velocity_norm_threshold
        if threshold == 0:
            return velocity
        most, norm = threshold * (x.norm() + 1e-10), velocity.norm() + 1e-10
        return velocity * (most / norm).clamp(max=1.0)

    def _noised_source(self, t: float) -> Tensor:
        return (1 - t) * self.lane.start + t * self._draw()

    def _renoised(self, estimate: Tensor, level: float) -> Tensor:
        return estimate if level == 0 else level * self._draw() + (1 - level) * estimate

    def _draw(self) -> Tensor:
        self.drawn += 1
        return self.lane.draw(self.drawn - 1)
