"""Files that end before their headers say they do: decoders mend most of these in silence, a catalogue must not.

Only a promise that common encoders keep is held against a file: lengths written when a file was streamed, and Ogg
streams without a last-page flag, are no promise.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from acestep.errors import AudioError

MOST_CHUNKS = 10_000  # of a damaged file every eight bytes may be one
SLACK_BYTES = 64  # some writers count a header or a padding byte too many
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # Matroska and WebM: the file, and all that is in it
STREAMED = 0x7FFF_F000  # sizes from here on were written without knowing the end
OGG_PAGE_BYTES = 65_307  # the largest page there is
MPEG_FRAME_SAMPLES = 1152  # decoders may take away as much for the delay of the encoder
MPEG_TAGS = (b"Xing", b"Info", b"VBRI")


@dataclass(frozen=True)
class Chunks:
    """How a container frames its chunks: where the first begins, the kind's and the size's form, what holds sound.

    inclusive: sizes count the chunk's own header.
    """

    first: int
    kind_bytes: int
    size: str
    align: int
    sound: bytes
    inclusive: bool = False


_CONTAINERS = {
    b"RIFF": Chunks(12, 4, "<I", 2, b"data"),
    b"RF64": Chunks(12, 4, "<I", 2, b"data"),
    b"BW64": Chunks(12, 4, "<I", 2, b"data"),
    b"FORM": Chunks(12, 4, ">I", 2, b"SSND"),
    b"riff": Chunks(40, 16, "<Q", 8, b"data", inclusive=True),
    b"caff": Chunks(8, 4, ">Q", 1, b"data"),
}


def refuse_cut(file: BinaryIO) -> None:
    """Refuse a file whose sound ends before its header says so; ``file`` is left at its start.

    Raises:
        AudioError: naming both lengths.
    """
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    promised = 0
    if head[:4] in _CONTAINERS:
        promised = _end_of_sound(file, _CONTAINERS[head[:4]], length)
    elif head[:4] == b".snd" and len(head) == 12:
        start, size = struct.unpack(">II", head[4:])
        promised = start + size if size < STREAMED else 0
    elif head[4:8] == b"ftyp":
        promised = max(_ends_of_atoms(file, length), default=0)
    elif head[:4] == EBML:
        promised = _end_of_segment(file)
    elif head[:4] == b"OggS":
        promised = _end_of_last_page(file, length)
    file.seek(0)
    if promised > length + (SLACK_BYTES if head[:4] != b"OggS" else 0):
        raise AudioError(
            f"truncated: the header promises {promised} bytes, the file has {length}; fetch it again from where "
            "it came from"
        )


def keeps_count(file: BinaryIO) -> bool:
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


def _end_of_sound(file: BinaryIO, chunks: Chunks, length: int) -> int:
    """Where the sound ends as its chunk says; 0 where it does not say."""
    size_bytes = struct.calcsize(chunks.size)
    header_bytes = chunks.kind_bytes + size_bytes
    long_size, place = 0, chunks.first
    for _ in range(MOST_CHUNKS):
        if place + header_bytes > length:
            break
        file.seek(place)
        header = file.read(header_bytes)
        kind = header[:4]
        (size,) = struct.unpack(chunks.size, header[chunks.kind_bytes :])
        if kind == b"ds64":  # the 64-bit sizes of RF64: of the file, of the sound
            sizes = file.read(16)
            long_size = int.from_bytes(sizes[8:], "little")
        body = size - header_bytes if chunks.inclusive else size
        if kind == chunks.sound:
            if size_bytes == 4 and size >= STREAMED:
                body = long_size
            known = 0 < body < 1 << 62
            return place + header_bytes + body if known else 0
        place += header_bytes + max(body, 0)
        place += -place % chunks.align
    return 0


def _ends_of_atoms(file: BinaryIO, length: int) -> Iterator[int]:
    """Where each top-level atom of an MP4 file that matters ends."""
    place = 0
    for _ in range(MOST_CHUNKS):
        if place + 8 > length:
            return
        file.seek(place)
        size, kind = struct.unpack(">I4s", file.read(8))
        if size == 1:
            size = int.from_bytes(file.read(8), "big")
        if size < 8:  # 0: up to the end of the file; else not an atom
            return
        place += size
        if kind in (b"mdat", b"moov", b"moof"):
            yield place


def _end_of_segment(file: BinaryIO) -> int:
    """Where a Matroska file ends; 0 where it was written without knowing the end."""
    file.seek(0)
    head = file.read(1024)
    place = head.find(SEGMENT) + len(SEGMENT)
    if place < len(SEGMENT) or place >= len(head) or not head[place]:
        return 0
    size_bytes = 9 - head[place].bit_length()  # the leading zeros tell how long the number is
    unknown = (1 << 7 * size_bytes) - 1
    size = int.from_bytes(head[place : place + size_bytes], "big") & unknown
    return 0 if size == unknown else place + size_bytes + size


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
