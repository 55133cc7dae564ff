"""Split concatenated files (MP3, FLAC) and chained Ogg streams into their parts.

Players play all parts; decoders that apply the first header to the whole file stop after the first part.
"""

import io
import re
from dataclasses import dataclass, field
from typing import BinaryIO

from acestep.audio.containers import end_of_content
from acestep.audio.file_windows import BlockReader, FileWindow
from acestep.audio.mpeg_frames import counts_itself, frame_runs, run_by_declared_count, tag_size
from acestep.errors import AudioError

MAX_PARTS = 10_000
_PAGE = re.compile(rb"OggS\0")
_FLAC = re.compile(rb"fLaC[\0\x80]\0\0\x22")  # marker, and header of the mandatory first block
_FIRST = 2  # flag of the first page of an Ogg stream


@dataclass(frozen=True)
class JoinedPart:
    """One part of a concatenated file.

    ranges: byte ranges (start, end).
    streams: number of streams, if the container states it.
    exceeds_count: the part has more frames than its header declares.
    """

    ranges: tuple[tuple[int, int], ...]
    streams: int = 1
    exceeds_count: bool = False

    def open(self, file: BinaryIO) -> BinaryIO:
        if self.ranges == ((0, file.seek(0, io.SEEK_END)),):
            file.seek(0)
            return file
        return FileWindow(file, self.ranges)  # type: ignore[return-value]


@dataclass(frozen=True)
class JoinedFile:
    """The parts of a file; ``left_over`` is the number of bytes that belong to none."""

    parts: list[JoinedPart] = field(default_factory=list)
    left_over: int = 0


def parts_of(file: BinaryIO, believe_count: bool = False) -> JoinedFile:
    """Split a file into its parts; leaves ``file`` at its start.

    Args:
        believe_count: skip the scan of an MP3 whose declared size is right.

    Raises:
        AudioError: there are more than ``MAX_PARTS``.
    """
    scan = BlockReader(file)
    tag = tag_size(scan, 0)
    head = scan.at(tag, 12)
    if head[:4] == b"OggS":
        joined = _ogg(scan)
    elif head[:4] == b"fLaC":
        joined = _flac(scan)
    elif end := end_of_content(file):
        blank = scan.is_blank(end, scan.length)
        joined = JoinedFile(left_over=0 if blank else max(scan.length - end, 0))
    else:
        joined = _mpeg(scan, believe_count)
    file.seek(0)
    if len(joined.parts) > MAX_PARTS:
        raise AudioError("unreadable_audio", f"joins more than {MAX_PARTS} files end to end", "split it")
    return joined if joined.parts else JoinedFile([JoinedPart(((0, scan.length),))], joined.left_over)


def _mpeg(scan: BlockReader, believe_count: bool) -> JoinedFile:
    counted = run_by_declared_count(scan) if believe_count else None
    found, lost = ([counted], 0) if counted else frame_runs(scan)
    return JoinedFile([JoinedPart(tuple(s.ranges), exceeds_count=s.exceeds_count) for s in found], lost)


def _flac(scan: BlockReader) -> JoinedFile:
    starts, place = [0], scan.find(_FLAC, 0)
    while len(starts) <= MAX_PARTS and (place := scan.find(_FLAC, place + 1)) < scan.length:
        starts.append(place)
    return JoinedFile([JoinedPart(((a, b),)) for a, b in zip(starts, [*starts[1:], scan.length], strict=True)])


def _ogg(scan: BlockReader) -> JoinedFile:
    """Links of an Ogg chain; each begins with the first pages of all its streams."""
    parts: list[JoinedPart] = []
    place = start = lost = streams = 0
    beginning = True
    while place < scan.length:
        head = scan.at(place, 27)
        if head[:5] != b"OggS\0" or len(head) < 27:
            after = scan.find(_PAGE, place + 1)
            lost += 0 if scan.is_blank(place, after) else after - place
            place = after
            continue
        is_first = bool(head[5] & _FIRST)
        if is_first and not beginning:
            parts.append(JoinedPart(((start, place),), streams))
            start, streams = place, 0
            if len(parts) > MAX_PARTS:
                break
        streams += is_first
        beginning = is_first
        segments = scan.at(place + 27, head[26])
        end = place + 27 + head[26] + sum(segments)
        if end != scan.length and scan.at(end, 5) != b"OggS\0":
            # Truncated page: another one begins inside. The last page is left to the truncation check.
            inside = scan.find(_PAGE, place + 1)
            end = inside if inside < min(end, scan.length) else end
        place = end
    return JoinedFile([*parts, JoinedPart(((start, scan.length),), streams)], lost)


def has_no_count(file: BinaryIO) -> bool:
    """Whether a file is MPEG audio without a declared frame count; leaves ``file`` at its start."""
    without_count = counts_itself(BlockReader(file)) is False
    file.seek(0)
    return without_count
