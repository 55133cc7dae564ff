"""Progress of a job: covers done, rates and time left."""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from acestep.constants import MIN_WORK_S
from pipeline.results.queries import WORK_COLUMNS

RECENT_S = 600.0
MIN_SAMPLES = 20  # where covers take minutes each, ten minutes hold too few for a rate
BETWEEN_SAMPLES_S = 1.0


@dataclass(frozen=True)
class ProgressRates:
    """Tracks finished per minute, and seconds of covers made and of source processed per second.

    A track counts in fractions, by its covers, since they finish one by one.
    """

    tracks_per_minute: float = 0.0
    x_real_time: float = 0.0
    work: float = 0.0


@dataclass(frozen=True)
class ProgressSample:
    """Totals at time ``at``: covers finished, and seconds of covers and of source."""

    at: float
    covers: int = 0
    audio_s: float = 0.0
    work_s: float = 0.0


@dataclass
class Progress:
    """Counts finished covers against the plan. Time left follows the work, since the longest tracks run first.

    items, tracks: covers to make in this launch, and tracks that they belong to.
    work_s: seconds of source of all items.
    now: a clock, in seconds.
    """

    items: int
    tracks: int
    work_s: float
    now: Callable[[], float] = time.monotonic
    by_kind: Counter[str] = field(default_factory=Counter)
    total: ProgressSample = field(init=False)

    def __post_init__(self) -> None:
        self.total = ProgressSample(self.now())
        self.started = self.total.at
        self.samples = deque([self.total])

    def add(self, table: pa.Table) -> None:
        """Count result rows."""
        ok = pc.equal(table["status"], "ok")
        self.by_kind.update(table["error_kind"].filter(pc.invert(ok)).to_pylist())
        if not self.total.covers:
            self._skip_start(table)
        seconds = pc.max_element_wise(table["source_duration_s"], MIN_WORK_S)  # as in the plan
        self.total = ProgressSample(
            at=self.now(),
            covers=self.total.covers + len(table),
            audio_s=self.total.audio_s + _sum(table["duration_s"].filter(ok)),
            work_s=self.total.work_s + _sum(seconds),
        )
        if len(self.samples) > 1 and self.total.at - self.samples[-2].at < BETWEEN_SAMPLES_S:
            self.samples.pop()
        self.samples.append(self.total)
        while len(self.samples) > MIN_SAMPLES and self.samples[1].at <= self.total.at - RECENT_S:
            self.samples.popleft()

    def _skip_start(self, first: pa.Table) -> None:
        """Start the recent rates at the work on the first cover, minutes after the model began to load."""
        worked_s = sum(_sum(first[name]) for name in WORK_COLUMNS)
        if worked_s:
            self.samples[0] = ProgressSample(max(self.started, self.now() - worked_s))

    @property
    def done(self) -> int:
        """Covers that are made or failed."""
        return self.total.covers

    @property
    def failed(self) -> int:
        """Covers that failed or were rejected."""
        return self.by_kind.total()

    def overall(self) -> ProgressRates:
        """Rates since the launch, including the start of the workers."""
        return self._since(ProgressSample(self.started))

    def recent(self) -> ProgressRates:
        """Rates of the last ten minutes; of a longer time where few covers finished in it."""
        return self._since(self.samples[0])

    def _since(self, then: ProgressSample) -> ProgressRates:
        took_s = self.now() - then.at
        if took_s <= 0:
            return ProgressRates()
        covers = self.total.covers - then.covers
        return ProgressRates(
            covers * self.tracks / max(self.items, 1) / took_s * 60,
            (self.total.audio_s - then.audio_s) / took_s,
            (self.total.work_s - then.work_s) / took_s,
        )

    def left_s(self) -> float | None:
        """Estimated seconds left at the recent rate; None without a rate."""
        left = self.items - self.done
        if left <= 0:
            return 0.0
        rate = self.recent().work
        # The plan's durations come from headers and may fall short; every cover left counts something.
        return max(self.work_s - self.total.work_s, left * MIN_WORK_S) / rate if rate else None


def slowest_s(table: pa.Table) -> float:
    """Seconds of work of the slowest cover in a table."""
    spent = [sum(row[name] or 0.0 for name in WORK_COLUMNS) for row in table.select(WORK_COLUMNS).to_pylist()]
    return max(spent, default=0.0)


def rates_in_words(progress: Progress) -> str:
    """Rates, failures and time to go, such as "12.3 tracks/min, 8.4 x real time, 12 min to go"."""
    rates = progress.recent()
    parts = [f"{rates.tracks_per_minute:.1f} tracks/min", f"{rates.x_real_time:.1f} x real time"]
    if progress.failed:
        parts.append(f"{progress.failed} failed ({kinds_in_words(progress.by_kind)})")
    left_s = progress.left_s()
    if left_s is not None:
        parts.append(f"{format_duration(left_s)} to go")
    return ", ".join(parts)


def in_words(progress: Progress) -> str:
    """Progress in one line."""
    return f"{progress.done} of {progress.items} covers, {rates_in_words(progress)}"


def kinds_in_words(by_kind: Mapping[str, int]) -> str:
    """Counts by kind, the most frequent first, such as "unreadable_audio 2, out_of_memory 1"."""
    return ", ".join(f"{kind} {count}" for kind, count in Counter(by_kind).most_common())


def format_duration(seconds: float) -> str:
    """A duration in at most two units, rounded up: "40 s", "12 min", "1 h 12 min", "3 d 4 h"."""
    if seconds <= 90:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _sum(column: pa.ChunkedArray) -> float:
    return float(pc.sum(column).as_py() or 0.0)
