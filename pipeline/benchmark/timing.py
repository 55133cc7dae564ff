"""Interleaved timing, so that disturbances of the machine affect all sides alike."""

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
    """Seconds of one run: wall time, CPU time of all threads, and time between two CUDA events."""

    wall: float
    cpu: float
    device: float | None = None


@dataclass(frozen=True)
class Ratio:
    """Peer time over our time by one clock, over the rounds; more than 1 means that ours is faster."""

    clock: str
    ours_s: float
    peer_s: float
    least: float
    median: float
    most: float


def synchronize(device: torch.device) -> None:
    """Wait for pending work of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(call: Callable[[], Made], device: torch.device) -> tuple[Made, TimeSample]:
    """The result of ``call``, and its time."""
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
    """Disable the garbage collector, whose runs take up to a quarter of a second in a large process."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def measure(call: Callable[[], Any], device: torch.device) -> TimeSample:
    """The time of ``call``; its result is dropped after it."""
    return measured(call, device)[1]


def interleave(
    sides: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device
) -> dict[str, list[TimeSample]]:
    """Run every side in turn, ``rounds`` times; all must have run before."""
    samples: dict[str, list[TimeSample]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            samples[name].append(measure(call, device))
    return samples


def medians(samples: Sequence[TimeSample]) -> dict[str, float]:
    """The median of each recorded clock."""
    read = (clock for clock in CLOCKS if all(getattr(sample, clock) is not None for sample in samples))
    return {clock: statistics.median(getattr(sample, clock) for sample in samples) for clock in read}


def ratios(ours: Sequence[TimeSample], peer: Sequence[TimeSample]) -> list[Ratio]:
    """A ratio for each clock that both sides have."""
    found = []
    own, theirs = medians(ours), medians(peer)
    for clock in (clock for clock in own if clock in theirs):
        pairs = zip(ours, peer, strict=True)
        each = [getattr(other, clock) / max(getattr(one, clock), 1e-9) for one, other in pairs]
        found.append(Ratio(clock, own[clock], theirs[clock], min(each), statistics.median(each), max(each)))
    return found
