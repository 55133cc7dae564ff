"""Results of a benchmark."""

from dataclasses import dataclass

from pipeline.benchmark.config import BenchmarkRequest
from pipeline.benchmark.machine import Machine, Peaks
from pipeline.benchmark.output_diff import Agreement
from pipeline.benchmark.timing import Ratio

OURS = "ours"


@dataclass(frozen=True)
class PartRow:
    """One part of one case: its roofline on this machine, and the time of each side.

    seconds: by side, of one run; see ``PartClock``.
    """

    part: str
    needed_gflop: float
    peer_gflop: float
    gigabytes: float
    roofline_s: float
    seconds: dict[str, float]


@dataclass(frozen=True)
class PeerResult:
    """Ours against one configuration of the peer.

    first_s: the peer's first run of the case, including compilation; None if it failed.
    problem: why it was not compared and timed, or "".
    """

    peer: str
    agreements: list[Agreement]
    ratios: list[Ratio]
    first_s: float | None
    problem: str = ""


@dataclass(frozen=True)
class CaseResult:
    """One case. ours_s: median by clock. memory_bytes: peak of each side above its beginning."""

    case: str
    audio_s: float
    ours_s: dict[str, float]
    peers: list[PeerResult]
    parts: list[PartRow]
    memory_bytes: dict[str, float | None]
    load: tuple[float, float]


@dataclass(frozen=True)
class Report:
    """One benchmark so far: ``cases`` of the ``planned`` ones."""

    request: BenchmarkRequest
    date: str
    device: str
    dtype: str
    machine: Machine
    peaks: Peaks
    notes: dict[str, tuple[str, ...]]
    planned: int
    cases: list[CaseResult]
