"""The benchmark's configuration and its validation."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from acestep.constants import MAX_SOURCE_SECONDS, MIN_WORK_S
from acestep.errors import RequestError
from pipeline.benchmark.model_sizes import SIZES

WORKLOADS = ("single_turbo", "single_base", "long", "sweep", "catalogue", "vae", "step")
PEERS = ("default", "tuned", "both")
VARIANTS = ("turbo", "base")
DTYPES = ("float32", "bfloat16")
MAX_TRACKS = 32


@dataclass(frozen=True)
class BenchmarkRequest:
    """One benchmark.

    workload: what is timed, such as single_turbo; see the list above.
    size: of the model: mini, mid, wide or full.
    seed: of weights and noise.
    device: "cpu", "cuda" or "cuda:<index>"; None is the GPU where there is one.
    dtype: None is bfloat16 on a GPU and float32 elsewhere.
    variant: "turbo" or "base", where the workload leaves it open.
    duration_s: lengths to measure at; None is the workload's own on this device.
    steps: of the sampler; None is 8 for turbo and, for base, 28 on a GPU and 8 elsewhere.
    tracks: how many of the catalogue's 32.
    peer: which configuration of diffusers: as it comes ("default"), with all its own means ("tuned"), or both.
    rounds: how often every side runs.
    threads: of torch; None is one per core.
    compiled: ours through torch.compile, as ``compiled=true`` of a job; for GPUs.
    breakdown: one further run of each side for time by part and peak memory.
    out: Markdown file to append to; None is ``outputs/benchmark/<workload>-<size>-<device>.md``.
    """

    workload: str
    size: str = "mini"
    device: str | None = None
    dtype: str | None = None
    variant: str | None = None
    duration_s: tuple[float, ...] | None = None
    steps: int | None = None
    tracks: int | None = None
    peer: str = "default"
    rounds: int = 3
    threads: int | None = None
    seed: int = 0
    compiled: bool = False
    breakdown: bool = True
    out: str | None = None


def parse_request(values: Mapping[str, Any]) -> BenchmarkRequest:
    """A request from plain values.

    Raises:
        RequestError: a value is unknown or out of range, or two values exclude each other.
    """
    request = BenchmarkRequest(**dict(values) | {"duration_s": _durations(values.get("duration_s"))})
    for name, allowed in (
        ("workload", WORKLOADS),
        ("size", tuple(SIZES)),
        ("peer", PEERS),
        ("variant", (*VARIANTS, None)),
        ("dtype", (*DTYPES, None)),
    ):
        _check_choice(name, getattr(request, name), allowed)
    for name, lowest in (("rounds", 1), ("steps", 1), ("threads", 1), ("tracks", 1), ("seed", 0)):
        value = getattr(request, name)
        if value is not None and value < lowest:
            raise RequestError("out_of_range", "is too small", f"the least is {lowest}", name, value)
    if request.tracks is not None and request.tracks > MAX_TRACKS:
        reason = "is too large"
        raise RequestError("out_of_range", reason, f"the catalogue has {MAX_TRACKS}", "tracks", request.tracks)
    _check_together(request)
    return request


def _durations(value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    listed = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    numbers = [v for v in listed if isinstance(v, int | float) and not isinstance(v, bool)]
    if not listed or len(numbers) < len(listed):
        reason = "is not a number of seconds or a list of them"
        raise RequestError("wrong_type", reason, field="duration_s", value=value)
    for seconds in numbers:
        if not MIN_WORK_S <= seconds <= MAX_SOURCE_SECONDS:
            raise RequestError(
                "out_of_range",
                field="duration_s",
                value=seconds,
                allowed=f"{MIN_WORK_S:g}..{MAX_SOURCE_SECONDS:g} (shorter covers are padded by ours and not by "
                "diffusers, and cannot be compared)",
            )
    return tuple(float(seconds) for seconds in numbers)


def _check_choice(name: str, value: Any, allowed: tuple[str | None, ...]) -> None:
    if value in allowed:
        return
    known = [text for text in allowed if text is not None]
    near = difflib.get_close_matches(str(value), known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}"
    raise RequestError("unknown_value", "", hint, name, value)


def _check_together(request: BenchmarkRequest) -> None:
    workload = request.workload
    if request.tracks is not None and workload != "catalogue":
        reason = "goes with workload=catalogue only"
        raise RequestError("conflict", reason, f"leave it out for {workload}", "tracks", request.tracks)
    if request.duration_s is not None and workload == "catalogue":
        raise RequestError(
            "conflict", "does not go with workload=catalogue, whose lengths are fixed", "use tracks=", "duration_s"
        )
    if request.steps is not None and workload in ("vae", "step"):
        remedy = "leave it out"
        raise RequestError("conflict", f"has no meaning for workload={workload}", remedy, "steps", request.steps)
    named = workload.removeprefix("single_")
    if request.variant is not None and workload in ("vae", "step"):
        raise RequestError(
            "conflict", f"has no meaning for workload={workload}", "leave it out", "variant", request.variant
        )
    if named in VARIANTS and request.variant not in (None, named):
        raise RequestError(
            "conflict", f"does not go with {workload}", f"use single_{request.variant}", "variant", request.variant
        )
