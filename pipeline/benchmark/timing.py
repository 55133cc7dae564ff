"""Sides run in turn, so that whatever slows the machine down slows all of them."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

CLOCKS = ("wall", "cpu", "device")
Made = TypeVar("Made")


@dataclass(frozen=True)
class TimeSample:
    """Seconds of one run: by the clock on the wall, of all this process's threads, and between two CUDA events."""

    wall: float
    cpu: float
    device: float | None = None


@dataclass(frozen=True)
class Ratio:
    """Peer over ours by one clock, round by round; more than 1 is faster."""

    clock: str
    ours_s: float
    peer_s: float
    least: float
    median: float
    most: float


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(call: Callable[[], Made], device: torch.device) -> tuple[Made, TimeSample]:
    """What ``call`` returns, and the time it took."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
    synchronize(device)
    with _no_collection():
        wall, cpu = time.perf_counter(), time.process_time()
        for event in events[:1]:
            event.record()
        made = call()
        for event in events[1:]:
            event.record()
        synchronize(device)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return made, TimeSample(wall, cpu, events[0].elapsed_time(events[1]) / 1000 if events else None)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python looks for cycles when it likes, which takes a quarter of a second where much is loaded."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def measure(call: Callable[[], Any], device: torch.device) -> TimeSample:
    """The time ``call`` takes; what it returns is dropped after it."""
    return measured(call, device)[1]


def interleave(
    sides: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device
) -> dict[str, list[TimeSample]]:
    """Every side once, then every side again, ``rounds`` times; all must have run before."""
    samples: dict[str, list[TimeSample]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            samples[name].append(measure(call, device))
    return samples


def medians(samples: Sequence[TimeSample]) -> dict[str, float]:
    """The median of each clock that was read."""
    read = (clock for clock in CLOCKS if all(getattr(sample, clock) is not None for sample in samples))
    return {clock: statistics.median(getattr(sample, clock) for sample in samples) for clock in read}


def ratios(ours: Sequence[TimeSample], peer: Sequence[TimeSample]) -> list[Ratio]:
    """A ratio for each clock that both have."""
    found = []
    own, theirs = medians(ours), medians(peer)
    for clock in (clock for clock in own if clock in theirs):
        pairs = zip(ours, peer, strict=True)
        each = [getattr(other, clock) / max(getattr(one, clock), 1e-9) for one, other in pairs]
        found.append(Ratio(clock, own[clock], theirs[clock], min(each), statistics.median(each), max(each)))
    return found
