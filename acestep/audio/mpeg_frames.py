"""Frames and tags of MPEG audio (MP1 to MP3, AAC in ADTS), to find where concatenated files begin.

Encoders declare the number of frames in a first frame without audio (Xing, Info or VBRI). Decoders that rely on it
ignore everything after that number.
"""

import re
import struct
from dataclasses import dataclass

from acestep.audio.file_windows import BlockReader

MAX_FRAMES = 300_000  # 40 minutes of the shortest frames, two hours of common ones
MAX_FRAME_BYTES = 1441  # layer 3
MAX_JUNK = 1 << 16  # bytes between tag and first frame
MAX_TRIES = 200_000  # candidate frame headers
SURE = 4  # consecutive frames that establish synchronization
_CANDIDATE = re.compile(rb"\xff[\xe0-\xff]|ID3|TAG|APETAGEX|LYRICSBEGIN")
COUNTED = (b"Xing", b"Info")
_KBPS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_HZ = (44_100, 48_000, 32_000)
_ADTS_HZ = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)
_VERSIONS = {3: 1, 2: 2, 0: 4}  # version bits -> divisor of MPEG-1's sample rates


Kind = tuple[int, int, int, bool]


@dataclass(frozen=True)
class FrameHeader:
    """Header of a frame.

    kind: version, layer (0 for AAC), rate in Hz, mono; constant within one encoding.
    size: frame size in bytes, including the header.
    """

    kind: Kind
    size: int


@dataclass
class FrameRun:
    """Consecutive frames of one encoding.

    ranges: byte ranges (start, end), including the tag before the first frame, without tags and junk in between.
    frames: number of frames with audio.
    counted: declared number of frames, None if not declared.
    """

    ranges: list[tuple[int, int]]
    kind: Kind
    counted: int | None = None
    frames: int = 0

    def extend(self, start: int, end: int) -> None:
        first, last = self.ranges[-1]
        if last == start:
            self.ranges[-1] = (first, end)
        else:
            self.ranges.append((start, end))

    @property
    def exceeds_count(self) -> bool:
        """Whether there are more frames than declared, not counting the one that some encoders omit."""
        return self.counted is not None and self.frames > self.counted + 1


def parse_frame_header(head: bytes) -> FrameHeader | None:
    """Parse six bytes; None if they are not a frame header, or the bit rate is free-format."""
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = _VERSIONS.get(head[1] >> 3 & 3), 4 - (head[1] >> 1 & 3)
    if layer == 4:
        return _adts_frame_of(head)
    rate_index, padding = head[2] >> 2 & 3, head[2] >> 1 & 1
    if version is None or rate_index == 3 or head[2] >> 4 in (0, 15):
        return None
    kbps = _KBPS[min(version, 2), layer if version == 1 else min(layer, 2)][(head[2] >> 4) - 1]
    rate = _HZ[rate_index] // version
    if layer == 1:
        size = (12_000 * kbps // rate + padding) * 4
    else:
        size = (72_000 if layer == 3 and version > 1 else 144_000) * kbps // rate + padding
    return FrameHeader((version, layer, rate, head[3] >> 6 == 3), size)


def _adts_frame_of(head: bytes) -> FrameHeader | None:
    rate_index, channels = head[2] >> 2 & 15, (head[2] & 1) << 2 | head[3] >> 6
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    if head[1] & 0xF0 != 0xF0 or rate_index >= len(_ADTS_HZ) or size < 7:
        return None
    return FrameHeader((1 + (head[1] >> 3 & 1), 0, _ADTS_HZ[rate_index], channels == 1), size)


def tag_size(scan: BlockReader, place: int) -> int:
    """Size in bytes of the ID3, APE or Lyrics3 tag at an offset; 0 if there is none."""
    head = scan.at(place, 32)
    if head[:3] == b"ID3" and len(head) >= 10:
        digits = zip(head[6:10], (21, 14, 7, 0), strict=True)
        return 10 + sum((byte & 0x7F) << shift for byte, shift in digits) + 10 * (head[5] >> 4 & 1)
    if head[:3] == b"TAG":
        return 128
    if head[:8] == b"APETAGEX" and len(head) == 32:
        return 32 + (0 if _ape_is_footer(head) else int.from_bytes(head[12:16], "little"))
    if head[:11] == b"LYRICSBEGIN":
        end = scan.at(place, 1 << 16).find(b"LYRICS200")
        return end + 9 if end >= 0 else 0
    return 0


def _ape_is_footer(head: bytes) -> bool:
    return not head[23] >> 5 & 1


def _bytes_before(head: bytes) -> int:
    """Size of an APE tag before its footer, if the tag has no header."""
    is_footer = head[:8] == b"APETAGEX" and len(head) == 32 and _ape_is_footer(head)
    return max(int.from_bytes(head[12:16], "little") - 32, 0) if is_footer else 0


def frame_runs(scan: BlockReader) -> tuple[list[FrameRun], int]:
    """Split MPEG audio into encodings; also returns the number of bytes that are neither frames nor tags.

    A frame with a declared count or a change of kind begins a new run. A tag does not, because segmented streams
    have one every few seconds and their frames depend on earlier ones. Empty if the file is not MPEG audio.
    """
    found: list[FrameRun] = []
    place = lost = frames = tries = 0
    tag: int | None = None  # offset of the ID3 tag before the frames
    synchronized = True
    while place < scan.length and frames < MAX_FRAMES:
        frame, last = parse_frame_header(scan.at(place, 6)), found[-1] if found else None
        goes_on = frame is not None and last is not None and frame.kind == last.kind
        if frame is not None and ((goes_on and synchronized) or _are_frames(scan, place, goes_on or place == 0)):
            synchronized = True
            is_count, count = _count(scan.at(place, 64)) if frame.kind[1] else (False, None)
            end = _end(scan, place, frame)
            if end < min(place + frame.size, scan.length):
                lost += end - place
                place = end
                continue
            if last is None or not goes_on or is_count:
                last = FrameRun([(place if tag is None else tag, place)], frame.kind, count)
                found.append(last)
            tag = None
            last.extend(place, end)
            last.frames += 0 if is_count else 1
            place, frames = end, frames + 1
        elif size := tag_size(scan, place):
            lost = max(lost - _bytes_before(scan.at(place, 32)), 0)
            tag = place if tag is None and scan.at(place, 3) == b"ID3" else tag
            place += size
        else:
            tries += 1
            after = scan.find(_CANDIDATE, place + 1) if tries < MAX_TRIES else scan.length
            if not found and after > MAX_JUNK:
                return [], 0
            lost += 0 if scan.is_blank(place, after) else after - place
            place, synchronized = after, False
    if frames == MAX_FRAMES:
        found[-1].extend(place, scan.length)
    return found, lost if found else 0


def _end(scan: BlockReader, place: int, frame: FrameHeader) -> int:
    """End offset of a frame; a truncated frame ends at the next tag or frame with a count."""
    end = min(place + frame.size, scan.length)
    if scan.at(place + frame.size, 2) == scan.at(place, 2) or place + frame.size == scan.length:
        return end
    if tag_size(scan, end) or _are_frames(scan, end, may_end=True):
        return end
    start = place
    while (start := scan.find(_CANDIDATE, start + 1)) < end:
        head = scan.at(start, 64)
        if head[0] == 0xFF:
            is_start = parse_frame_header(head[:6]) is not None and _count(head)[0]
        elif head[:3] == b"ID3":
            is_start = max(head[3:5]) < 0xFF and max(head[6:10]) < 0x80
        else:
            after = start + tag_size(scan, start)
            is_start = after > start and (
                after == scan.length or tag_size(scan, after) > 0 or _are_frames(scan, after, may_end=True)
            )
        if is_start:
            return start
    return end


def counts_itself(scan: BlockReader) -> bool | None:
    """Whether the first frame declares the number of frames; None if the file does not begin with MPEG audio."""
    place = tag_size(scan, 0)
    return _count(scan.at(place, 64))[0] if _are_frames(scan, place, may_end=True) else None


def run_by_declared_count(scan: BlockReader) -> FrameRun | None:
    """The single run of a file whose size matches its first frame's declaration; None if it does not."""
    start = tag_size(scan, 0)
    content = scan.at(start, 64)
    frame, (is_count, count) = parse_frame_header(content[:6]), _count(content)
    size = _counted_bytes(content)
    if frame is None or not is_count or not count or size > count * MAX_FRAME_BYTES:
        return None
    place = end = start + size
    while place < scan.length and (tag := tag_size(scan, place)):
        place += tag
    return FrameRun([(0, end)], frame.kind, count, count) if size and place == scan.length else None


def _counted_bytes(content: bytes) -> int:
    """Declared size in bytes from the first frame on; 0 if not declared."""
    for at in (36, 21, 13):
        if content[at : at + 4] in COUNTED:
            flags, size = struct.unpack(">I4xI", content[at + 4 : at + 16])
            return size if flags & 3 == 3 else 0
    return 0


def _count(content: bytes) -> tuple[bool, int | None]:
    """Whether a frame holds a declaration instead of audio, and the declared number of frames."""
    for at in (36, 21, 13):  # offset after the side information, by version and channels
        if content[at : at + 4] in COUNTED:
            flags, count = struct.unpack(">II", content[at + 4 : at + 12])
            return True, count if flags & 1 else None
    if content[36:40] == b"VBRI":
        return True, struct.unpack(">I", content[50:54])[0]
    return False, None


def _are_frames(scan: BlockReader, place: int, may_end: bool) -> bool:
    """Whether ``SURE`` frames of one kind follow each other at an offset.

    Args:
        may_end: accept fewer frames before a tag or the end of the file.
    """
    kind = None
    for _ in range(SURE):
        frame = parse_frame_header(scan.at(place, 6))
        if frame is None or kind not in (None, frame.kind):
            return may_end and kind is not None and (place == scan.length or tag_size(scan, place) > 0)
        kind = frame.kind
        place += frame.size
    return True
