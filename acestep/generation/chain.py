"""Chains of covers (country -> rock -> heavy metal), passed on as latents, with shared first steps."""

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from acestep.errors import GenerationError
from acestep.generation.conditions import TrackConditions
from acestep.generation.rendering import render
from acestep.generation.stages import Stage
from acestep.runtime.threads import inference
from acestep.sampling.plan import CoverPlan, resolve
from acestep.sampling.prefix_tree import Path, branch_points, build_tree, last_known_index, plan_key
from acestep.sampling.sampler import Snapshot, denoise_from

Key = tuple[tuple[Stage, ...], int]  # stages and seed


@dataclass(frozen=True)
class Cover:
    """Result of one stage: latents ``[1, t, c]`` and waveform ``[2, n]`` (not yet limited).

    denoise_s, decode_s: seconds spent on this request. Steps shared with earlier covers are not counted; the time
        for an intermediate cover counts for the first cover that needs it.
    """

    conditions: TrackConditions
    latents: Tensor
    wave: Tensor
    denoise_s: float
    decode_s: float

    @cached_property
    def as_source(self) -> TrackConditions:
        """Conditions of a stage that starts from this cover."""
        return self.conditions.restyled(self.latents, self.wave.square().mean().sqrt().item())


class Chain:
    """Runs the covers of one track. Common first steps and equal covers are computed once.

    Snapshots and intermediate covers are kept while a later cover needs them. The samples of a cover do not depend
    on the other covers or their order.

    chains: all covers to run, by stages and seed.
    adjust: applied to latents before decoding.
    tree: trajectories of ``chains`` and of the intermediate covers.
    """

    def __init__(
        self,
        track: TrackConditions,
        chains: Iterable[Key],
        adjust: Callable[[Tensor], Tensor] = lambda latents: latents,
    ):
        chains = list(chains)
        self.track, self.adjust = track, adjust
        trajectories = _trajectories(track, chains)
        self.tree = build_tree(trajectories.values())
        self.paths = dict(zip(trajectories, self.tree.paths, strict=True))
        self.plans = dict(zip(self.tree.paths, self.tree.plans, strict=True))
        sources = {
            path: self.paths[stages[:-1], seed] for (stages, seed), path in self.paths.items() if stages[1:]
        }
        self.uses = Counter([*(self.paths[key] for key in chains), *sources.values()])
        self.kept: dict[Path, Cover] = {}
        self.states: dict[int, Snapshot] = {}

    @inference
    def run(
        self, stages: tuple[Stage, ...], seed: int, on_step: Callable[[int, int], None] | None = None
    ) -> Cover:
        """The cover of the last of ``stages``; runs the earlier stages unless they are kept.

        Raises:
            GenerationError: the output, or that of an earlier stage, is not usable.
            RequestError: see ``TrackConditions.trajectory``.
            KeyError: it is not among ``chains``.
        """
        path = self.paths[stages, seed]
        made_before = path in self.kept
        try:
            cover = self._cover(stages, seed, on_step)
        finally:
            self._used(path)
        return replace(cover, denoise_s=0.0, decode_s=0.0) if made_before else cover

    def _cover(self, stages: tuple[Stage, ...], seed: int, on_step: Callable[[int, int], None] | None) -> Cover:
        path = self.paths[stages, seed]
        if path not in self.kept:
            started = time.perf_counter()
            conditions = self._conditions(stages, seed, on_step)
            self.kept[path] = self._make(conditions, path, seed, on_step, started)
        return self.kept[path]

    def _conditions(
        self, stages: tuple[Stage, ...], seed: int, on_step: Callable[[int, int], None] | None
    ) -> TrackConditions:
        prompt, before = stages[-1].prompt(self.track.prompt), stages[:-1]
        if not before:
            return replace(self.track, prompt=prompt)
        try:
            return replace(self._cover(before, seed, on_step).as_source, prompt=prompt)
        except GenerationError as error:
            raise GenerationError("parent_failed", f"stage {len(before)}, its source, failed: {error}") from error
        finally:
            self._used(self.paths[before, seed])

    def _make(
        self,
        conditions: TrackConditions,
        path: Path,
        seed: int,
        on_step: Callable[[int, int], None] | None,
        started: float,
    ) -> Cover:
        handler, plan = conditions.handler, self.plans[path]
        trajectory, points = conditions.trajectory(plan, seed), branch_points(path, self._to_come())
        latents = denoise_from(handler.model.decoder, handler.null, trajectory, path, self.states, points, on_step)
        handler.synchronize()
        denoised = time.perf_counter()
        wave = render(handler, self.adjust(latents), plan, conditions)
        return Cover(conditions, latents, wave, denoised - started, time.perf_counter() - denoised)

    def _to_come(self) -> list[tuple[Path, CoverPlan]]:
        return [(path, self.plans[path]) for path, uses in self.uses.items() if uses > 0 and path not in self.kept]

    def _used(self, path: Path) -> None:
        """Release covers and snapshots that no remaining cover needs."""
        self.uses[path] -= 1
        if self.uses[path] <= 0:
            self.kept.pop(path, None)
        needed = {path[last_known_index(path, self.states)] for path, _ in self._to_come()}
        self.states = {state: snapshot for state, snapshot in self.states.items() if state in needed}


def _trajectories(track: TrackConditions, chains: Iterable[Key]) -> dict[Key, tuple[Hashable, CoverPlan]]:
    """(Inputs, plan) of every cover that ``chains`` need, in order of dependency."""
    trajectories: dict[Key, tuple[Hashable, CoverPlan]] = {}
    for stages, seed in chains:
        source: Hashable = None
        for k, stage in enumerate(stages, start=1):
            if (stages[:k], seed) not in trajectories:
                plan = resolve(stage.setting, track.handler.is_turbo)
                trajectories[stages[:k], seed] = (source, stage.prompt(track.prompt), seed), plan
            inputs, plan = trajectories[stages[:k], seed]
            source = (inputs, plan_key(plan))
    return trajectories
