"""Files that end before their headers say they do: decoders mend most of these in silence, a catalogue must not.

Only a promise that common encoders keep is held against a file: lengths written when a file was streamed, and Ogg
streams without a last-page flag, are no promise.
"""

import io
import struct
from typing import BinaryIO

from acestep.audio.containers import CONTAINERS, EBML, STREAMED, ChunkLayout, atoms, chunks_of, end_of_segment
from acestep.errors import AudioError

SLACK_BYTES = 64  # some writers count a header or a padding byte too many
OGG_PAGE_BYTES = 65_307  # the largest page there is
MPEG_FRAME_SAMPLES = 1152  # decoders may take away as much for the delay of the encoder
MPEG_TAGS = (b"Xing", b"Info", b"VBRI")


def refuse_cut(file: BinaryIO) -> None:
    """Refuse a file whose sound ends before its header says so; ``file`` is left at its start.

    Raises:
        AudioError: naming both lengths.
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
        raise AudioError(
            f"truncated: the header promises {promised} bytes, the file has {length}; fetch it again from where "
            "it came from"
        )


def declares_frame_count(file: BinaryIO) -> bool:
    """True where an MPEG file says how many frames it has; of others, decoders guess from the first frame.

    ``file`` is left where it was.
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
    """Where the sound ends as its chunk says; 0 where it does not say."""
    for kind, begin, _, size in chunks_of(file, chunks, length):
        if kind == chunks.sound:
            return begin + size if size is not None else 0
    return 0


def _end_of_last_page(file: BinaryIO, length: int) -> int:
    """Where the last page of an Ogg file ends, by its own table of segments."""
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
