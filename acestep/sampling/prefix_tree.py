"""A sweep as a tree: covers of one track that begin alike take their first steps together. Pure: no tensors.

A state is what a trajectory holds between two steps. Trajectories are in one state where they were given the same,
began alike and took the same steps since. From one state they go on by one step or by several; where those read
the same branch, they also share its velocities, since guidance and all that follows only combine them.
"""

from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import groupby, takewhile

from acestep.sampling.plan import SAID_BY_STEPS, Branch, CoverPlan, Step

Path = tuple[int, ...]
Reading = tuple[Branch, bool]

# What of a plan acts within its steps. Anything else, also what is added later, tells trajectories apart from the
# start.
_ACTS_IN_STEPS = {
    "steps",
    "guidance",
    "guidance_scale",
    "velocity_norm_threshold",
    "velocity_ema_factor",
    "dcw",
}
_BEGINNING = [field.name for field in fields(CoverPlan) if field.name not in SAID_BY_STEPS | _ACTS_IN_STEPS]


def plan_key(plan: CoverPlan) -> tuple[Hashable, ...]:
    """How a plan begins, and each of its steps with all that acts in it; equal where ``identity`` is."""
    # The modulation of all times is one product, whose rounding may depend on how many there are.
    times = (*(step.t for step in plan.steps), plan.steps[-1].t_next)
    beginning = (times, *(getattr(plan, name) for name in _BEGINNING))
    always = (plan.velocity_norm_threshold, plan.velocity_ema_factor, plan.dcw)
    guidance = (plan.guidance, plan.guidance_scale)
    moves = ((step, always, guidance if step.guided or step.correction_guided else None) for step in plan.steps)
    return beginning, *moves


def readings(step: Step) -> tuple[Reading, ...]:
    """Branches that a step evaluates at the state it starts from, and whether with the unconditional velocity.

    Not Heun's second evaluation, which is made elsewhere, nor flow-edit's, which read a state with noise added.
    """
    if step.edit_from is not None:
        return ()
    other = () if step.other is None else ((step.other, False),)
    return (step.branch, step.guided), *other


@dataclass(frozen=True)
class TreeLevel:
    """One step of all trajectories that are that long.

    trajectories: that are told apart by the end of the step.
    evaluations, alone: of the network, in the tree and where every trajectory runs alone.
    """

    trajectories: int
    evaluations: int
    alone: int


@dataclass(frozen=True)
class PrefixTree:
    """Trajectories of one track.

    paths: for each plan the number of its state before each step, and at the end. Trajectories with equal paths
        are one.
    """

    plans: tuple[CoverPlan, ...]
    paths: tuple[Path, ...]

    @property
    def levels(self) -> tuple[TreeLevel, ...]:
        """The steps of the tree, from the first."""
        return tuple(self._level(i) for i in range(max(map(len, self.paths), default=1) - 1))

    @property
    def evaluations(self) -> int:
        """Network evaluations of the whole tree."""
        return sum(level.evaluations for level in self.levels)

    @property
    def evaluations_alone(self) -> int:
        """Network evaluations where every trajectory runs alone."""
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
    """Levels, and the numbers of the steps (from 1) that are all like that."""
    for level, some in groupby(enumerate(levels, start=1), key=lambda numbered: numbered[1]):
        numbers = [number for number, _ in some]
        yield level, f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"


def build_tree(trajectories: Iterable[tuple[Hashable, CoverPlan]]) -> PrefixTree:
    """The tree of trajectories, each with what it is given besides its plan: seed, words, source."""
    numbers: dict[tuple[int, Hashable], int] = {}
    plans, paths = [], []
    for given, plan in trajectories:
        beginning, *moves = plan_key(plan)
        path: list[int] = []
        for taken in ((given, beginning), *moves):
            path.append(numbers.setdefault((path[-1] if path else -1, taken), len(numbers)))
        plans.append(plan)
        paths.append(tuple(path))
    return PrefixTree(tuple(plans), tuple(paths))


def branch_points(path: Path, others: Collection[tuple[Path, CoverPlan]]) -> dict[int, frozenset[Reading]]:
    """States of ``path`` at which trajectories of ``others`` leave it, and what these will evaluate there."""
    found: dict[int, frozenset[Reading]] = {}
    for other, plan in others:
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(path, other, strict=False)))
        if 0 < common < len(other):
            state = path[common - 1]
            found[state] = found.get(state, frozenset()) | frozenset(readings(plan.steps[common - 1]))
    return found


def last_known_index(path: Path, states: Collection[int]) -> int:
    """Index of the last state of ``path`` that is among ``states``; 0 where none is."""
    return max((i for i, state in enumerate(path) if state in states), default=0)
