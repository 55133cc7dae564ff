"""What a benchmark found."""

from dataclasses import dataclass

from pipeline.benchmark.machine import Machine, Peaks
from pipeline.benchmark.outputs import Agreement
from pipeline.benchmark.request import BenchmarkRequest
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
    """Ours against one configuration of the peer. first_s: its first run, compilation included."""

    peer: str
    agreements: list[Agreement]
    ratios: list[Ratio]
    first_s: float


@dataclass(frozen=True)
class CaseResult:
    """One case. memory_bytes: peak of each side beyond what it began with."""

    case: str
    audio_s: float
    peers: list[PeerResult]
    parts: list[PartRow]
    memory_bytes: dict[str, float | None]
    load: tuple[float, float]


@dataclass(frozen=True)
class Report:
    """One benchmark."""

    request: BenchmarkRequest
    date: str
    device: str
    dtype: str
    machine: Machine
    peaks: Peaks
    notes: dict[str, tuple[str, ...]]
    cases: list[CaseResult]
