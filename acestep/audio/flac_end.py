"""Find the end of the last frame of a FLAC file, by its frame number and CRC.

libFLAC reads beyond the frame, so its file position is not the end.
"""

import re

from acestep.audio.file_windows import BlockReader
from acestep.audio.mpeg_frames import tag_size

STEP_BYTES = 1 << 16
MAX_TRIES = 100_000  # candidate frame headers
MAX_FRAME_BYTES = 1 << 18
_STREAM_INFO_AT = 8  # offset after the marker and the block header
_FRAME = re.compile(rb"\xff[\xf8\xf9]")
_BLOCK_SAMPLES = {1: 192, **{n: 576 << n - 2 for n in range(2, 6)}, **{n: 256 << n - 8 for n in range(8, 16)}}


def _table(polynomial: int, bits: int) -> tuple[int, ...]:
    top, mask = 1 << bits - 1, (1 << bits) - 1
    values = []
    for byte in range(256):
        value = byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value & top else 0)) & mask
        values.append(value)
    return tuple(values)


_CRC8, _CRC16 = _table(0x07, 8), _table(0x8005, 16)


def bytes_behind(scan: BlockReader, read_to: int) -> int:
    """Number of bytes after the last frame, other than zeros and tags; 0 if there are none.

    An upper bound, because another position in the frame may have a matching CRC. If the frame is not found, only
    bytes after ``read_to`` count.

    Args:
        read_to: file position of the decoder.
    """
    counts = [_foreign(scan, end) for end in _ends(scan, tag_size(scan, 0), read_to) or [read_to]]
    return 0 if 0 in counts else counts[0]


def _foreign(scan: BlockReader, place: int) -> int:
    while place < scan.length and (size := tag_size(scan, place)):
        place += size
    return 0 if scan.is_blank(place, scan.length) else scan.length - place


def _ends(scan: BlockReader, start: int, read_to: int) -> list[int]:
    """Candidate end offsets of the last frame, by its CRC."""
    info = scan.at(start + _STREAM_INFO_AT, 34)
    if scan.at(start, 4) != b"fLaC" or len(info) < 34:
        return []
    max_bytes = int.from_bytes(info[7:10], "big") or MAX_FRAME_BYTES
    total = int.from_bytes(info[13:18], "big") & (1 << 36) - 1
    block = int.from_bytes(info[:2], "big")
    frame_bytes, high = min(max_bytes, MAX_FRAME_BYTES), read_to
    tries = 0
    while high > start and tries < MAX_TRIES:
        begin = max(high - frame_bytes - STEP_BYTES, start)
        content = scan.at(begin, high - begin)
        matches = list(_FRAME.finditer(content))
        tries += len(matches)
        for match in reversed(matches):
            head = match.start()
            if _samples_to(content[head : head + 16].ljust(16, b"\0"), block) == total:
                return [begin + end for end in _ends_of_frame(content[: head + frame_bytes], head)]
        if begin == start:
            break
        high = begin + frame_bytes  # overlap, so that every frame is complete in one of the two windows
    return []


def _samples_to(head: bytes, block: int) -> int | None:
    """Number of samples up to the end of the frame with this header; None if the header is invalid."""
    ones = 8 - (~head[4] & 0xFF).bit_length()  # the frame number is coded as in UTF-8
    if ones == 1 or ones > 7:
        return None
    number = head[4] & (0x7F >> ones)
    place = 5
    for byte in head[5 : 5 + max(ones - 1, 0)]:
        number, place = number << 6 | byte & 0x3F, place + 1
    code, rate = head[2] >> 4, head[2] & 15
    samples = _BLOCK_SAMPLES.get(code, 0)
    if code in (6, 7):
        size = code - 5
        samples, place = int.from_bytes(head[place : place + size], "big") + 1, place + size
    place += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    crc = 0
    for byte in head[: place + 1]:
        crc = _CRC8[crc ^ byte]
    if crc or not samples:
        return None
    return (number if head[1] & 1 else number * block) + samples


def _ends_of_frame(content: bytes, head: int) -> list[int]:
    crc, ends = 0, []
    for place in range(head, len(content)):
        crc = (crc << 8 & 0xFFFF) ^ _CRC16[crc >> 8 ^ content[place]]
        if not crc and place > head + 6:
            ends.append(place + 1)
            if not any(content[place + 1 : place + 65]):
                break  # zeros do not change a CRC of zero
    return ends
