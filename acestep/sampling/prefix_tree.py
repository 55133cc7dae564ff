"""Prefix tree of a sweep: trajectories of one track share their common first steps. Contains no tensors.

A state is the content of a trajectory between two steps. Trajectories share a state while inputs, noise and steps
are identical. Different steps from the same state also share the velocities of branches that both evaluate,
because guidance and later operations only combine them.
"""

from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import groupby, takewhile

from acestep.sampling.plan import DERIVED_FROM_STEPS, Branch, CoverPlan, Step

Path = tuple[int, ...]
Reading = tuple[Branch, bool]

# Plan fields that act within single steps. All other fields, including future ones, separate trajectories from the
# first state.
_ACTS_IN_STEPS = {
    "steps",
    "guidance",
    "guidance_scale",
    "velocity_norm_threshold",
    "velocity_ema_factor",
    "dcw",
}
_BEGINNING = [field.name for field in fields(CoverPlan) if field.name not in DERIVED_FROM_STEPS | _ACTS_IN_STEPS]


def plan_key(plan: CoverPlan) -> tuple[Hashable, ...]:
    """Keys of a plan's initial state and of each step; equal if ``CoverPlan.identity`` is."""
    # The modulation of all times is one matrix product, whose rounding may depend on the number of times.
    times = (*(step.t for step in plan.steps), plan.steps[-1].t_next)
    beginning = (times, *(getattr(plan, name) for name in _BEGINNING))
    always = (plan.velocity_norm_threshold, plan.velocity_ema_factor, plan.dcw)
    guidance = (plan.guidance, plan.guidance_scale)
    moves = ((step, always, guidance if step.guided or step.correction_guided else None) for step in plan.steps)
    return beginning, *moves


def readings(step: Step) -> tuple[Reading, ...]:
    """(Branch, guided) of the evaluations at a step's initial state.

    Excludes Heun's second evaluation, which uses another state, and flow-edit's, which add noise.
    """
    if step.edit_from is not None:
        return ()
    other = () if step.other is None else ((step.other, False),)
    return (step.branch, step.guided), *other


@dataclass(frozen=True)
class TreeLevel:
    """One step of all trajectories that have it.

    trajectories: number of distinct trajectories after the step.
    evaluations, alone: network evaluations in the tree, and without sharing.
    """

    trajectories: int
    evaluations: int
    alone: int


@dataclass(frozen=True)
class PrefixTree:
    """Trajectories of one track.

    paths: for each plan, the numbers of its states before each step and at the end. Equal paths are one
    trajectory.
    """

    plans: tuple[CoverPlan, ...]
    paths: tuple[Path, ...]

    @property
    def levels(self) -> tuple[TreeLevel, ...]:
        return tuple(self._level(i) for i in range(max(map(len, self.paths), default=1) - 1))

    @property
    def evaluations(self) -> int:
        return sum(level.evaluations for level in self.levels)

    @property
    def evaluations_alone(self) -> int:
        return sum(plan.evaluations for plan in self.plans)

    def _level(self, i: int) -> TreeLevel:
        taken = [
            (path, plan.steps[i]) for path, plan in zip(self.paths, self.plans, strict=True) if i < len(plan.steps)
        ]
        steps = {(path[i], path[i + 1]): step for path, step in taken}
        shared = {(state, *reading) for (state, _), step in steps.items() for reading in readings(step)}
        own = sum(step.evaluations - sum(1 + guided for _, guided in readings(step)) for step in steps.values())
        return TreeLevel(
            trajectories=len(steps),
            evaluations=own + sum(1 + guided for _, _, guided in shared),
            alone=sum(step.evaluations for _, step in taken),
        )

    def __str__(self) -> str:
        trajectories, total, alone = len(set(self.paths)), self.evaluations, self.evaluations_alone
        lines = [
            f"{trajectories} trajectories: {total} network evaluations, {alone} where each runs alone",
            f"{'steps':>9} {'trajectories':>12} {'evaluations':>12} {'alone':>6}  (each step)",
        ]
        for level, numbers in _runs(self.levels):
            lines.append(f"{numbers:>9} {level.trajectories:>12} {level.evaluations:>12} {level.alone:>6}")
        return "\n".join(lines)


def _runs(levels: tuple[TreeLevel, ...]) -> Iterator[tuple[TreeLevel, str]]:
    """Equal consecutive levels with their range of step numbers, from 1."""
    for level, some in groupby(enumerate(levels, start=1), key=lambda numbered: numbered[1]):
        numbers = [number for number, _ in some]
        yield level, f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"


def build_tree(trajectories: Iterable[tuple[Hashable, CoverPlan]]) -> PrefixTree:
    """Build the tree of trajectories, given as (inputs besides the plan: seed, prompt, source; plan)."""
    numbers: dict[tuple[int, Hashable], int] = {}
    plans, paths = [], []
    for inputs, plan in trajectories:
        beginning, *steps = plan_key(plan)
        path: list[int] = []
        for edge in ((inputs, beginning), *steps):
            path.append(numbers.setdefault((path[-1] if path else -1, edge), len(numbers)))
        plans.append(plan)
        paths.append(tuple(path))
    return PrefixTree(tuple(plans), tuple(paths))


def branch_points(path: Path, others: Collection[tuple[Path, CoverPlan]]) -> dict[int, frozenset[Reading]]:
    """States of ``path`` where trajectories of ``others`` branch off, and their evaluations there."""
    points: dict[int, frozenset[Reading]] = {}
    for other, plan in others:
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(path, other, strict=False)))
        if 0 < common < len(other):
            state = path[common - 1]
            points[state] = points.get(state, frozenset()) | frozenset(readings(plan.steps[common - 1]))
    return points


def last_known_index(path: Path, states: Collection[int]) -> int:
    """Index of the last state of ``path`` in ``states``, or 0."""
    return max((i for i, state in enumerate(path) if state in states), default=0)
