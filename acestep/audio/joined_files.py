"""Files that are several, joined end to end: MP3s one after the other, the links of an Ogg chain, FLAC after FLAC.

Players go on with the next one; decoders that take the first header for the whole file stop after it.
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
_FLAC = re.compile(rb"fLaC[\0\x80]\0\0\x22")  # the mark, and the header of the block that has to follow it
_FIRST = 2  # flag of an Ogg page: the first one of its stream


@dataclass(frozen=True)
class JoinedPart:
    """One of the files that a file joins.

    ranges: where it stands, from a byte up to another. streams: of sound or other, where the container tells.
    exceeds_count: it holds more than its own header counts.
    """

    ranges: tuple[tuple[int, int], ...]
    streams: int = 1
    exceeds_count: bool = False

    def open(self, file: BinaryIO) -> BinaryIO:
        """It alone, as a file at its start."""
        if self.ranges == ((0, file.seek(0, io.SEEK_END)),):
            file.seek(0)
            return file
        return FileWindow(file, self.ranges)  # type: ignore[return-value]


@dataclass(frozen=True)
class JoinedFile:
    """What a file consists of; ``left_over``: bytes of it that are no part of any sound."""

    parts: list[JoinedPart] = field(default_factory=list)
    left_over: int = 0


def parts_of(file: BinaryIO, believe_count: bool = False) -> JoinedFile:
    """The files that ``file`` joins, one for most; ``file`` is left at its start.

    Args:
        believe_count: do not look at every frame of an MP3 whose own count of bytes is right.

    Raises:
        AudioError: it joins more than ``MAX_PARTS``.
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
        raise AudioError(f"joins more than {MAX_PARTS} files end to end; split it")
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
    """The links of a chain: each begins with the first pages of all its streams."""
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
            # Cut off: another page begins within it. The last page of all is left to the check for truncation.
            inside = scan.find(_PAGE, place + 1)
            end = inside if inside < min(end, scan.length) else end
        place = end
    return JoinedFile([*parts, JoinedPart(((start, scan.length),), streams)], lost)


def has_no_count(file: BinaryIO) -> bool:
    """True for MPEG audio that does not tell how much there is of it; ``file`` is left at its start."""
    found = counts_itself(BlockReader(file)) is False
    file.seek(0)
    return found
