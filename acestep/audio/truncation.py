"""Detect files that end before the length in their header; most decoders accept these silently.

Only lengths that common encoders write correctly are checked. Lengths of streamed files and Ogg streams without a
last-page flag are ignored.
"""

import io
import struct
from typing import BinaryIO

from acestep.audio.containers import CONTAINERS, EBML, STREAMED, ChunkLayout, atoms, chunks_of, end_of_segment
from acestep.errors import AudioError

SLACK_BYTES = 64  # some encoders count a header or a padding byte twice
OGG_PAGE_BYTES = 65_307  # largest page
MPEG_FRAME_SAMPLES = 1152  # decoders may drop this many samples to compensate the encoder delay
MPEG_TAGS = (b"Xing", b"Info", b"VBRI")


def refuse_cut(file: BinaryIO) -> None:
    """Check the file size against the header; leaves ``file`` at its start.

    Raises:
        AudioError: the file is shorter than its header states.
    """
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    promised = 0
    if head[:4] in CONTAINERS:
        promised = _end_of_sound(file, CONTAINERS[head[:4]], length)
    elif head[:4] == b".snd" and len(head) == 12:
        start, size = struct.unpack(">II", head[4:])
        promised = start + size if size < STREAMED else 0
    elif head[4:8] == b"ftyp":
        ends = [end for kind, end in atoms(file, length) if kind in (b"mdat", b"moov", b"moof")]
        promised = max(ends, default=0)
    elif head[:4] == EBML:
        promised = end_of_segment(file)
    elif head[:4] == b"OggS":
        promised = _end_of_last_page(file, length)
    file.seek(0)
    if promised > length + (SLACK_BYTES if head[:4] != b"OggS" else 0):
        remedy = "fetch it again from where it came from"
        reason = f"truncated: the header promises {promised} bytes, the file has {length}"
        raise AudioError("unreadable_audio", reason, remedy)


def declares_frame_count(file: BinaryIO) -> bool:
    """Whether an MPEG file declares its number of frames (otherwise decoders estimate it from the first frame).

    Keeps the position of ``file``.
    """
    place = file.tell()
    file.seek(0)
    head = file.read(10)
    tag = 0
    if head[:3] == b"ID3" and len(head) == 10:
        tag = 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    file.seek(tag)
    first_frames = file.read(4096)
    file.seek(place)
    return any(name in first_frames for name in MPEG_TAGS)


def _end_of_sound(file: BinaryIO, chunks: ChunkLayout, length: int) -> int:
    """Declared end offset of the audio data; 0 if not declared."""
    for kind, begin, _, size in chunks_of(file, chunks, length):
        if kind == chunks.sound:
            return begin + size if size is not None else 0
    return 0


def _end_of_last_page(file: BinaryIO, length: int) -> int:
    """End offset of the last page of an Ogg file, by its segment table."""
    start = max(length - OGG_PAGE_BYTES, 0)
    file.seek(start)
    tail = file.read(OGG_PAGE_BYTES)
    place = tail.rfind(b"OggS\0")
    if place < 0:
        return 0
    page = tail[place:]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return start + place + 27 + 255
    return start + place + 27 + page[26] + sum(page[27 : 27 + page[26]])
