"""Look at every source of a catalogue before a worker does: is it there, is it audio, can it be decoded."""

import io
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import BinaryIO, Literal

import av
import numpy as np
import soundfile
from pyarrow import fs

from acestep.decoding import BLOCK_SAMPLES, NOTHING_ELSE, decode, ffmpeg_blocks
from acestep.errors import AudioError, RestyleError
from acestep.truncation import refuse_cut
from pipeline.manifest import Track
from pipeline.probe import READ_BYTES, THREADS, Probe, probe
from pipeline.problems import Problem
from pipeline.spelling import Folders
from pipeline.storage import locate, patiently

Decode = Literal["start", "full", "none"]
DECODES = ("start", "full", "none")
START_SECONDS = 5.0
FULL_THREADS = min(8, os.cpu_count() or 1)  # each holds one decoded source
BATCH_ROWS = 2048
REMEMBERED = 100_000  # sources that many rows share are decoded once
TELL_INTERVAL_S = 0.5

Look = Callable[[Sequence[str]], Mapping[str, Probe]]


@dataclass
class Sources:
    """Tracks that were looked at, those with a problem, and those whose header does not say how long they are.

    undecodable: of those with a problem, the ones that a plan takes for good, since only decoding tells.
    seconds: of all sources that are fit to run and whose length is known.
    """

    tracks: int = 0
    bad: int = 0
    undecodable: int = 0
    unknown: int = 0
    seconds: float = 0.0


def check_sources(
    tracks: Iterable[Track],
    look: Look,
    how_far: Decode,
    most_seconds: float,
    found: Callable[[Problem], None],
    looked: Callable[[int], None],
) -> Sources:
    """Probe the files of every track and decode them as far as ``how_far`` says, batch by batch.

    Args:
        look: probes of files by their names, such as ``Probes.of``.
        how_far: "start" reads the first five seconds, "full" all, which alone finds what is cut off or damaged.
        most_seconds: refuse anything longer.
        found: is told every problem, at most one of a track.
        looked: is told now and then how many tracks are done.
    """
    counted = Sources()
    full = how_far == "full"
    threads = FULL_THREADS if full else THREADS
    told_at = time.monotonic()

    @lru_cache(maxsize=REMEMBERED)
    def defect(uri: str) -> tuple[str, str] | None:
        return decoding_defect(uri, full, most_seconds)

    planned = iter(tracks)
    while batch := list(islice(planned, BATCH_ROWS)):
        probes = look([uri for track in batch for uri in files_of(track)])
        with ThreadPoolExecutor(threads) as pool:

            def first_problem(track: Track, probes: Mapping[str, Probe] = probes) -> Problem | None:
                return problem_of(track, probes, None if how_far == "none" else defect, most_seconds)

            try:
                for track, problem in zip(batch, pool.map(first_problem, batch), strict=True):
                    counted.tracks += 1
                    if problem is not None:
                        counted.bad += 1
                        planned_out = probes[problem.source].error_kind or problem.kind == "too_long"
                        counted.undecodable += not planned_out
                        found(problem)
                    elif (seconds := probes[track.source].duration_s) is None:
                        counted.unknown += 1
                    else:
                        counted.seconds += seconds
                    if time.monotonic() - told_at >= TELL_INTERVAL_S:
                        told_at = time.monotonic()
                        looked(counted.tracks)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # else leaving would wait for the whole batch
                raise
    return counted


def probe_all(uris: Sequence[str]) -> dict[str, Probe]:
    """Probes of files that nobody will remember, for want of an output folder."""
    unique = list(dict.fromkeys(uris))
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(unique, pool.map(partial(probe, folders=Folders()), unique), strict=True))


def files_of(track: Track) -> Iterator[str]:
    """The files a track is made from: its source, and its reference where it has one."""
    yield track.source
    if track.reference:
        yield track.reference


def problem_of(
    track: Track,
    probes: Mapping[str, Probe],
    defect: Callable[[str], tuple[str, str] | None] | None,
    most_seconds: float,
) -> Problem | None:
    """What is wrong with the files of one track, the cheapest look first; None where they can be used."""
    for uri in files_of(track):
        known = probes[uri]
        if known.error_kind is not None:
            return Problem(track.track_id, uri, known.error_kind, known.error or "")
        if known.duration_s is not None and known.duration_s > most_seconds:
            message = f"{uri}: {known.duration_s:.1f} s is longer than {most_seconds:g} s; cut the track"
            return Problem(track.track_id, uri, "too_long", message)
        if defect is not None and (wrong := defect(uri)):
            return Problem(track.track_id, uri, *wrong)
    return None


def decoding_defect(uri: str, full: bool, most_seconds: float) -> tuple[str, str] | None:
    """Why a file cannot be decoded, as a kind and a message; None where it can.

    Args:
        full: decode all of it as a worker does, and not its first seconds only.
    """
    try:
        filesystem, path = locate(uri)

        def look() -> None:
            # Decoders read a little at a time, and where the file is remote each read is a request.
            with io.BufferedReader(filesystem.open_input_file(path), READ_BYTES) as file:
                check_samples([decode(file, most_seconds)[0]] if full else start_of(file))

        if isinstance(filesystem, fs.LocalFileSystem):
            look()
        else:
            patiently(look)
    except AudioError as error:
        return "unreadable_audio", f"{uri}: {error}"
    except (OSError, RestyleError) as error:
        return "unreadable_file", f"{uri}: {error}"
    return None


def check_samples(blocks: Sequence[np.ndarray]) -> None:
    """Refuse decoded samples that no cover can be made from.

    Raises:
        AudioError: there are none, or some are not finite.
    """
    if not sum(block.size for block in blocks):
        raise AudioError("no samples: the file holds a header and no sound")
    if not all(np.isfinite(block).all() for block in blocks):
        raise AudioError("samples are not finite (NaN or infinity)")


def start_of(file: BinaryIO) -> list[np.ndarray]:
    """The samples of the first seconds of an open file, in blocks of any shape.

    Raises:
        AudioError: it is not audio, ends before its header says so, or is damaged where it starts.
    """
    refuse_cut(file)
    try:
        sound = soundfile.SoundFile(file)
    except soundfile.LibsndfileError as error:
        file.seek(0)
        return _start_with_ffmpeg(file, str(error.error_string))
    with sound:
        # However many channels or hertz a header promises, a block is all that is read.
        frames = min(int(START_SECONDS * sound.samplerate), max(BLOCK_SAMPLES // sound.channels, 1))
        try:
            return [sound.read(frames, dtype="float32")]
        except soundfile.LibsndfileError as error:
            raise AudioError(
                f"damaged or truncated ({error.error_string}); fetch it again from where it came from"
            ) from error


def _start_with_ffmpeg(file: BinaryIO, before: str) -> list[np.ndarray]:
    blocks: list[np.ndarray] = []
    count = 0
    try:
        with av.open(file, "r", options=NOTHING_ELSE) as container:
            if not container.streams.audio:
                raise AudioError(f"holds no sound (FFmpeg reads it as {container.format.long_name})")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise AudioError("its sound is in a codec that FFmpeg does not know; convert it to WAV or FLAC")
            for block in ffmpeg_blocks(container, stream):
                blocks.append(block)
                count += block.shape[1]
                if count >= START_SECONDS * stream.rate or sum(b.size for b in blocks) >= BLOCK_SAMPLES:
                    break
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"cannot be decoded as audio (libsndfile: {before}; FFmpeg: {reason})") from error
    return blocks
