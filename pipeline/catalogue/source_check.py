"""Check every source of a catalogue before the run: existence, format, decoding."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import BinaryIO

from acestep.audio.decoding import blocks_of, check_samples, decode
from acestep.audio.source_notes import LevelMeter, SourceNote, of_reference
from acestep.errors import RestyleError
from pipeline.catalogue.decode_depth import Decode
from pipeline.catalogue.manifest import Track
from pipeline.catalogue.probe import THREADS, Probe
from pipeline.catalogue.problem_report import ReportedProblem
from pipeline.storage.read_timeout import DEFAULT_READ_TIMEOUT, ReadTimeout, Tick
from pipeline.storage.source_copy import open_in_reader
from pipeline.storage.source_errors import source_kind
from pipeline.storage.store import locate, run_on

START_SECONDS = 5.0
FULL_THREADS = min(8, os.cpu_count() or 1)  # each holds one decoded source
BATCH_ROWS = 2048
REMEMBERED = 100_000  # cached results: sources shared by many rows are decoded once
TELL_INTERVAL_S = 0.5

Look = Callable[[Sequence[str]], Mapping[str, Probe]]


@dataclass
class SourceSummary:
    """Counts of checked tracks.

    tracks, bad: all tracks, and those with a problem.
    undecodable: bad tracks that only decoding detects; a plan without decoding would accept them.
    unknown: usable tracks whose header does not state a duration.
    seconds: total duration of usable sources with a known duration.
    """

    tracks: int = 0
    bad: int = 0
    undecodable: int = 0
    unknown: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class DecodeResult:
    """Notes about a decoded file, or its defect as (kind, message)."""

    notes: tuple[SourceNote, ...] = ()
    defect: tuple[str, str] | None = None


def check_sources(
    tracks: Iterable[Track],
    look: Look,
    how_far: Decode,
    max_seconds: float,
    found: Callable[[ReportedProblem], None],
    noted: Callable[[ReportedProblem], None],
    looked: Callable[[int], None],
    timeout: ReadTimeout = DEFAULT_READ_TIMEOUT,
) -> SourceSummary:
    """Probe and decode the files of all tracks, batch by batch.

    Args:
        look: function that probes files, such as ``ProbeCache.of``.
        how_far: "start" decodes the first five seconds, "full" everything (finds truncation and damage), "none"
            nothing.
        max_seconds: refuse longer sources.
        found: receives problems, at most one per track.
        noted: receives notes about usable tracks, for example silence.
        looked: receives the number of finished tracks from time to time.
    """
    counted = SourceSummary()
    full = how_far == "full"
    threads = FULL_THREADS if full else THREADS
    told_at = time.monotonic()

    stopped = threading.Event()
    timeout = replace(timeout, stopped=stopped.is_set)

    @lru_cache(maxsize=REMEMBERED)
    def decoded(uri: str) -> DecodeResult:
        return check_decoding(uri, full, max_seconds, timeout)

    planned = iter(tracks)
    while batch := list(islice(planned, BATCH_ROWS)):
        probes = look([uri for track in batch for uri in files_of(track)])
        with ThreadPoolExecutor(threads) as pool:

            def check(
                track: Track, probes: Mapping[str, Probe] = probes
            ) -> tuple[ReportedProblem | None, list[ReportedProblem]]:
                return check_track(track, probes, None if how_far == "none" else decoded, max_seconds)

            try:
                for track, (problem, notes) in zip(batch, pool.map(check, batch), strict=True):
                    counted.tracks += 1
                    if problem is not None:
                        counted.bad += 1
                        known = probes[problem.source]
                        counted.undecodable += not (known.error_kind or is_longer(known, max_seconds))
                        found(problem)
                    elif (seconds := probes[track.source].duration_s) is None:
                        counted.unknown += 1
                    else:
                        counted.seconds += seconds
                    for note in notes:
                        noted(note)
                    if time.monotonic() - told_at >= TELL_INTERVAL_S:
                        told_at = time.monotonic()
                        looked(counted.tracks)
            except BaseException:
                stopped.set()
                pool.shutdown(cancel_futures=True)  # do not wait for the whole batch
                raise
    return counted


def files_of(track: Track) -> Iterator[str]:
    """The source of a track, and its reference if it has one."""
    yield track.source
    if track.reference:
        yield track.reference


def check_track(
    track: Track,
    probes: Mapping[str, Probe],
    decoded: Callable[[str], DecodeResult] | None,
    max_seconds: float,
) -> tuple[ReportedProblem | None, list[ReportedProblem]]:
    """Check the files of one track, cheapest check first; return its problem, or None and its notes."""
    notes: list[ReportedProblem] = []
    for uri in files_of(track):
        known = probes[uri]
        if known.error_kind is not None:
            return ReportedProblem(track.track_id, uri, known.error_kind, known.error or ""), []
        if is_longer(known, max_seconds):
            message = f"{uri}: {known.duration_s:.1f} s is longer than {max_seconds:g} s; cut the track"
            return ReportedProblem(track.track_id, uri, "too_long", message), []
        if decoded is not None:
            heard = decoded(uri)
            if heard.defect is not None:
                return ReportedProblem(track.track_id, uri, *heard.defect), []
            told = heard.notes if uri == track.source else of_reference(heard.notes, uri)
            notes += [ReportedProblem(track.track_id, uri, note.kind, note.text) for note in told]
    return None, notes


def is_longer(known: Probe, max_seconds: float) -> bool:
    """Whether the duration in a file's header exceeds ``max_seconds``."""
    return known.duration_s is not None and known.duration_s > max_seconds


def check_decoding(
    uri: str, full: bool, max_seconds: float, timeout: ReadTimeout = DEFAULT_READ_TIMEOUT
) -> DecodeResult:
    """Decode a file as a worker does.

    Args:
        full: decode all of it instead of the first seconds (or, if they are silent, up to the first sound).
    """

    def decoded(tick: Tick) -> list[SourceNote]:
        filesystem, path = locate(uri)

        def look() -> list[SourceNote]:
            with open_in_reader(filesystem, path, tick) as file:
                if not full:
                    return start_of(file, max_seconds)
                pieces, notes = decode(file, max_seconds)
                check_samples([samples for samples, _ in pieces])
                return notes

        return run_on(filesystem, look)

    try:
        return DecodeResult(tuple(timeout.run(uri, decoded)))
    except (OSError, RestyleError) as error:
        return DecodeResult(defect=(source_kind(error), f"{uri}: {error}"))


def start_of(file: BinaryIO, max_seconds: float | None = None) -> list[SourceNote]:
    """Decode the first seconds of an open file and on to the first sound; return notes about it.

    Raises:
        AudioError: it is not audio, is shorter than its header states, or its start is damaged.
    """
    notes: list[SourceNote] = []
    meter, seconds = LevelMeter(), 0.0
    with closing(blocks_of(file, max_seconds, notes)) as blocks:
        for samples, rate in blocks:
            check_samples([samples])
            meter.add(samples)
            seconds += samples.shape[1] / rate
            if seconds >= START_SECONDS and meter.note() is None:
                return notes
    if not meter.count:
        check_samples([])
    said = meter.note()
    return [*notes, said] if said else notes
