"""What a benchmark found."""

from dataclasses import dataclass

from pipeline.benchmark.config import BenchmarkRequest
from pipeline.benchmark.machine import Machine, Peaks
from pipeline.benchmark.output_diff import Agreement
from pipeline.benchmark.timing import Ratio

OURS = "ours"


@dataclass(frozen=True)
class PartRow:
    """One part of one case: the least it takes on this machine, and what each side took.

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

    first_s: its first run of the case, compilation included; None where it did not end.
    problem: why it was neither compared nor timed; "" where it was.
    """

    peer: str
    agreements: list[Agreement]
    ratios: list[Ratio]
    first_s: float | None
    problem: str = ""


@dataclass(frozen=True)
class CaseResult:
    """One case. ours_s: median by clock. memory_bytes: peak of each side beyond what it began with."""

    case: str
    audio_s: float
    ours_s: dict[str, float]
    peers: list[PeerResult]
    parts: list[PartRow]
    memory_bytes: dict[str, float | None]
    load: tuple[float, float]


@dataclass(frozen=True)
class Report:
    """One benchmark, as far as it has come: ``cases`` of the ``planned`` ones."""

    request: BenchmarkRequest
    date: str
    device: str
    dtype: str
    machine: Machine
    peaks: Peaks
    notes: dict[str, tuple[str, ...]]
    planned: int
    cases: list[CaseResult]
