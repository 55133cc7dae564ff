"""Time schedules: flow times from 1 (noise) down to 0 (data)."""

from collections.abc import Sequence

from acestep.constants import MAX_TURBO_STEPS

TURBO_STEPS = 8
TURBO_SHIFTS = (1.0, 2.0, 3.0)


def shifted(steps: int, shift: float) -> tuple[float, ...]:
    """``steps + 1`` times, uniform in u = 1 - i / steps and warped by shift u / (1 + (shift - 1) u)."""
    uniform = (1 - i / steps for i in range(steps + 1))
    return tuple(shift * u / (1 + (shift - 1) * u) for u in uniform)


def explicit_turbo(times: Sequence[float]) -> tuple[float, ...]:
    """Schedule of a turbo model: at most 20 times, each snapped to the nearest distilled time, then 0.

    Trailing zeros are dropped. Ties go to the larger time.
    """
    known = sorted({t for shift in TURBO_SHIFTS for t in shifted(TURBO_STEPS, shift)[:-1]}, reverse=True)
    kept = list(times)
    while kept and kept[-1] == 0:
        kept.pop()
    return (*(min(known, key=lambda k: abs(k - t)) for t in kept[:MAX_TURBO_STEPS]), 0.0)


def nearest(times: Sequence[float], level: float) -> int:
    """Index of the time nearest to ``level``; the first of two at equal distance."""
    return min(range(len(times)), key=lambda i: abs(times[i] - level))
