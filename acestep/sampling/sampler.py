"""Sampling loop. A trajectory is one generation: start state, plan, conditions.

Trajectories run one after the other instead of as a batch: on a GPU, another batch size selects kernels with
different rounding, so a cover would depend on the others in its batch; on a CPU, batching gains nothing. The
common steps of a prefix tree (``acestep.sampling.prefix_tree``) are evaluated once and passed on as a
``Snapshot``.

Legend: t latent frames, c latent channels.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from acestep.model.transformer import DiffusionTransformer
from acestep.model.transformer_layers import ConstantCrossAttention, CrossAttention, Modulation
from acestep.runtime.threads import inference
from acestep.sampling.dcw import dcw
from acestep.sampling.guidance import adg, apg, cfg
from acestep.sampling.plan import Branch, CoverPlan, Step
from acestep.sampling.prefix_tree import Path, Reading, last_known_index, readings


@dataclass(frozen=True)
class Condition:
    """Network inputs besides the state: context ``[1, t, 2c]`` and cross-attention of one prompt."""

    context: Tensor
    cross: CrossAttention


@dataclass(frozen=True)
class Trajectory:
    """One generation.

    start: initial state ``[1, t, c]`` (fp32): noise, the noised source, or for flow-edit the source.
    conditions: conditions of every branch of the plan.
    draw: returns fresh noise ``[1, t, c]`` by index, for SDE steps and flow-edit.
    """

    plan: CoverPlan
    start: Tensor
    conditions: Mapping[Branch, Condition]
    draw: Callable[[int], Tensor]


@dataclass(frozen=True)
class SamplerState:
    """Immutable state of a trajectory between two steps.

    x: ``[1, t, c]`` fp32.
    momenta: guidance momentum, by side of a flow-edit.
    last_velocity: velocity of the last step; None before the first.
    drawn: number of noise tensors drawn so far.
    """

    x: Tensor
    momenta: Mapping[str, Tensor] = field(default_factory=dict)
    last_velocity: Tensor | None = None
    drawn: int = 0


@dataclass(frozen=True)
class Velocities:
    """Velocities of one branch; ``unconditional`` is None without guidance."""

    conditional: Tensor
    unconditional: Tensor | None = None


@dataclass(frozen=True)
class Snapshot:
    """A state at which other trajectories branch off, with the velocities and modulation that they share."""

    state: SamplerState
    velocities: Mapping[Reading, Velocities]
    modulation: Modulation


def initial_noise(seed: int, frames: int, channels: int) -> Tensor:
    """Standard normal ``[1, t, c]``, generated in fp32 on the CPU to be equal on all machines."""
    return torch.randn(1, frames, channels, generator=torch.Generator().manual_seed(seed))


def fresh_noise(seed: int, number: int, frames: int, channels: int) -> Tensor:
    """The ``number``-th fresh noise ``[1, t, c]`` of a seed, independent of the initial noise of any seed.

    Seed and number are hashed, because the CPU generator uses only 32 bits of a seed.
    """
    digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
    return initial_noise(int.from_bytes(digest[:4], "big"), frames, channels)


def rotate_noise(noise: Tensor, other: Tensor, variance: float) -> Tensor:
    """Rotate ``noise`` towards ``other`` by ``variance`` times a right angle, which preserves the variance."""
    angle = variance * math.pi / 2
    return math.cos(angle) * noise + math.sin(angle) * other


def denoise(
    transformer: DiffusionTransformer, null: ConstantCrossAttention, trajectories: Sequence[Trajectory]
) -> list[Tensor]:
    """Integrate each trajectory from its start to latents ``[1, t, c]`` (fp32), without sharing.

    Args:
        null: cross-attention of the unconditional branch, for guided steps.
    """
    paths = [tuple(range(len(trajectory.plan.steps) + 1)) for trajectory in trajectories]
    return [
        denoise_from(transformer, null, trajectory, path, {}, {})
        for trajectory, path in zip(trajectories, paths, strict=True)
    ]


@inference
def denoise_from(
    transformer: DiffusionTransformer,
    null: ConstantCrossAttention,
    trajectory: Trajectory,
    path: Path,
    snapshots: MutableMapping[int, Snapshot],
    branch_points: Mapping[int, frozenset[Reading]],
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Integrate one trajectory of a tree from its last known state to latents ``[1, t, c]`` (fp32).

    The result does not depend on the available snapshots, because evaluations have the same shapes as without
    them.

    Args:
        path: numbers of the trajectory's states in the tree.
        snapshots: known states by number; those of ``branch_points`` on the path are added.
        branch_points: states where other trajectories branch off, and their evaluations there.
        on_step: called with (steps done, total steps) after each step, counted from the trajectory's start.
    """
    steps, first = trajectory.plan.steps, last_known_index(path, snapshots)
    snapshot = snapshots.get(path[first])
    modulation = _modulation(transformer, trajectory) if snapshot is None else snapshot.modulation
    run = _Run(
        transformer,
        null,
        trajectory,
        modulation,
        SamplerState(trajectory.start) if snapshot is None else snapshot.state,
    )
    for i in range(first, len(steps)):
        state, stored = run.state, snapshots.get(path[i])
        known = {} if stored is None else dict(stored.velocities)
        run.advance(i, known)
        if path[i] in branch_points:
            shared = {reading: v for reading, v in known.items() if reading in branch_points[path[i]]}
            snapshots[path[i]] = Snapshot(state, shared, modulation)
        if on_step is not None:
            on_step(i + 1, len(steps))
    return run.x


def _modulation(transformer: DiffusionTransformer, trajectory: Trajectory) -> Modulation:
    steps = trajectory.plan.steps
    times = [*(step.t for step in steps), steps[-1].t_next]
    return transformer.modulation(torch.tensor(times, device=trajectory.start.device))


class _Run:
    """Integration of one trajectory. Tensors are replaced, never modified, so that returned states stay valid."""

    def __init__(
        self,
        transformer: DiffusionTransformer,
        null: ConstantCrossAttention,
        trajectory: Trajectory,
        modulation: Modulation,
        state: SamplerState,
    ):
        self.transformer, self.null, self.trajectory, self.plan = transformer, null, trajectory, trajectory.plan
        self.modulation = modulation
        self.x, self.momenta, self.drawn = state.x, dict(state.momenta), state.drawn
        self.last_velocity = state.last_velocity

    @property
    def state(self) -> SamplerState:
        return SamplerState(self.x, dict(self.momenta), self.last_velocity, self.drawn)

    def advance(self, i: int, known: MutableMapping[Reading, Velocities]) -> None:
        """Take step ``i``.

        Args:
            known: velocities at the step's state; missing ones are evaluated and added.
        """
        step, at = self.plan.steps[i], self.modulation.at(i)
        if step.edit_from is not None:
            velocity = self._settled(self._edit_velocity(step, step.edit_from, at), self.x)
            self.x = self.x - velocity * (step.t - step.t_next)
            self.last_velocity = velocity
            return
        if self.plan.edit is not None and (i == 0 or self.plan.steps[i - 1].edit_from is not None):
            self.x = self.x + self._noised_source(step.t) - self.trajectory.start
        velocity = self._settled(self._velocity(step, at, known), self.x)
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

    def _velocity(self, step: Step, at: Modulation, known: MutableMapping[Reading, Velocities]) -> Tensor:
        for branch, guided in readings(step):
            if (branch, guided) not in known:
                known[branch, guided] = self._evaluate(self.x, branch, guided, at)
        leading = known[step.branch, step.guided]
        velocity = leading.conditional
        if leading.unconditional is not None:
            velocity = self._guided(velocity, leading.unconditional, self.x, step.t)
        if step.other is None:
            return velocity
        return step.weight * velocity + (1 - step.weight) * known[step.other, False].conditional

    def _correction(self, step: Step, velocity: Tensor, at: Modulation) -> Tensor:
        """Heun's second velocity, at the predicted state; with plain CFG, without momentum."""
        x = self.x - velocity * (step.t - step.t_next)
        leading = self._evaluate(x, step.branch, step.correction_guided, at)
        second = leading.conditional
        if leading.unconditional is not None:
            second = cfg(second, leading.unconditional, self.plan.guidance_scale)
        if step.other is not None:
            other = self._evaluate(x, step.other, False, at).conditional
            second = step.weight * second + (1 - step.weight) * other
        second = self._limited(second, x)
        share = self.plan.velocity_ema_factor
        return (1 - share) * second + share * velocity

    def _edit_velocity(self, step: Step, origin: Branch, at: Modulation) -> Tensor:
        """Mean over noise draws of the target velocity minus the source velocity."""
        sides: dict[str, list[Tensor]] = {"target": [], "source": []}
        momenta: dict[str, list[Tensor]] = {"target": [], "source": []}
        for _ in range(step.draws):
            noised = self._noised_source(step.t)
            moved = self.x + noised - self.trajectory.start
            for side, x, branch in (("target", moved, step.branch), ("source", noised, origin)):
                read = self._evaluate(x, branch, step.guided, at)
                velocity = read.conditional
                if read.unconditional is not None:
                    scale, before = self.plan.guidance_scale, self.momenta.get(side)
                    velocity, momentum = apg(velocity, read.unconditional, scale, before)
                    momenta[side].append(momentum)
                sides[side].append(velocity)
        for side, values in momenta.items():
            if values:
                self.momenta[side] = torch.stack(values).mean(0)
        return (torch.stack(sides["target"]) - torch.stack(sides["source"])).mean(0)

    def _evaluate(self, x: Tensor, branch: Branch, guided: bool, at: Modulation) -> Velocities:
        condition = self.trajectory.conditions[branch]
        if guided:
            return Velocities(*self.transformer.guided(x, condition.context, at, condition.cross, self.null))
        return Velocities(self.transformer(x, condition.context, at, condition.cross))

    def _guided(self, conditional: Tensor, unconditional: Tensor, x: Tensor, t: float) -> Tensor:
        kind, scale = self.plan.guidance, self.plan.guidance_scale
        if kind == "apg":
            velocity, self.momenta["target"] = apg(conditional, unconditional, scale, self.momenta.get("target"))
            return velocity
        if kind == "cfg":
            return cfg(conditional, unconditional, scale)
        return adg(conditional, unconditional, scale, x, t, kind)

    def _settled(self, velocity: Tensor, x: Tensor) -> Tensor:
        """The velocity limited in norm and averaged with the last step's (EMA)."""
        velocity, share = self._limited(velocity, x), self.plan.velocity_ema_factor
        if share == 0 or self.last_velocity is None:
            return velocity
        return (1 - share) * velocity + share * self.last_velocity

    def _limited(self, velocity: Tensor, x: Tensor) -> Tensor:
        threshold = self.plan.velocity_norm_threshold
        if threshold == 0:
            return velocity
        max_norm, norm = threshold * (x.norm() + 1e-10), velocity.norm() + 1e-10
        return velocity * (max_norm / norm).clamp(max=1.0)

    def _noised_source(self, t: float) -> Tensor:
        return (1 - t) * self.trajectory.start + t * self._draw()

    def _renoised(self, estimate: Tensor, level: float) -> Tensor:
        return estimate if level == 0 else level * self._draw() + (1 - level) * estimate

    def _draw(self) -> Tensor:
        self.drawn += 1
        return self.trajectory.draw(self.drawn - 1)
