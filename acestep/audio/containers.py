"""Parse containers: chunks of RIFF and similar formats, atoms of MP4, the segment of Matroska.

A file that was streamed has a header without length; its audio data extends to the end of the file.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from acestep.audio.file_windows import FileWindow

MAX_CHUNKS = 10_000  # a damaged file may have one every eight bytes
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # Matroska and WebM: file header, top-level element
STREAMED = 0x7FFF_F000  # 32-bit sizes from here on mean unknown
UNKNOWN_LONG = 1 << 62  # the same for 64-bit sizes


@dataclass(frozen=True)
class ChunkLayout:
    """Chunk format of a container.

    first: offset of the first chunk.
    kind_bytes, size: length of the kind, and struct format of the size.
    align: alignment of chunks in bytes.
    sound: kind of the chunk with audio data.
    inclusive: sizes include the chunk header.
    """

    first: int
    kind_bytes: int
    size: str
    align: int
    sound: bytes
    inclusive: bool = False


CONTAINERS = {
    b"RIFF": ChunkLayout(12, 4, "<I", 2, b"data"),
    b"RF64": ChunkLayout(12, 4, "<I", 2, b"data"),
    b"BW64": ChunkLayout(12, 4, "<I", 2, b"data"),
    b"FORM": ChunkLayout(12, 4, ">I", 2, b"SSND"),
    b"riff": ChunkLayout(40, 16, "<Q", 8, b"data", inclusive=True),
    b"caff": ChunkLayout(8, 4, ">Q", 1, b"data"),
}


def end_of_content(file: BinaryIO) -> int:
    """End offset of the last chunk or atom; 0 for a format without them."""
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head[:4] in CONTAINERS:
        chunks, end, sounded = CONTAINERS[head[:4]], 0, False
        for kind, _, chunk_end, size in chunks_of(file, chunks, length):
            if sounded and (kind in CONTAINERS or not _is_name(kind) or chunk_end > length + 1):
                break  # another file, or not a chunk
            sounded = sounded or kind == chunks.sound
            end = chunk_end if size is not None else length
        return min(end, length)
    if head[4:8] == b"ftyp":
        end = 0
        for kind, atom_end in atoms(file, length):
            if end and (kind == b"ftyp" or not _is_name(kind) or atom_end > length):
                break
            end = atom_end
        return min(end, length)
    return min(end_of_segment(file) or length, length) if head[:4] == EBML else 0


def _is_name(kind: bytes) -> bool:
    return all(32 <= byte < 127 or byte == 0xA9 for byte in kind)


def chunks_of(file: BinaryIO, chunks: ChunkLayout, length: int) -> Iterator[tuple[bytes, int, int, int | None]]:
    """Yield (kind, body offset, offset of the next chunk, body size or None if unknown) of each chunk."""
    size_bytes = struct.calcsize(chunks.size)
    header_bytes = chunks.kind_bytes + size_bytes
    long_size, place = 0, chunks.first
    for _ in range(MAX_CHUNKS):
        if place + header_bytes > length:
            return
        file.seek(place)
        header = file.read(header_bytes)
        kind = header[:4]
        (size,) = struct.unpack(chunks.size, header[chunks.kind_bytes :])
        if kind == b"ds64":  # 64-bit sizes of RF64: file, audio data
            sizes = file.read(16)
            long_size = int.from_bytes(sizes[8:], "little")
        body = size - header_bytes if chunks.inclusive else size
        is_known = True
        if kind == chunks.sound:
            if size_bytes == 4 and size >= STREAMED:
                body = long_size
            is_known = 0 < body < UNKNOWN_LONG
        begin = place + header_bytes
        place = begin + max(body, 0) if is_known else length
        place += -place % chunks.align
        yield kind, begin, place, body if is_known else None


def atoms(file: BinaryIO, length: int) -> Iterator[tuple[bytes, int]]:
    """Yield (kind, end offset) of each top-level atom of an MP4 file."""
    place = 0
    for _ in range(MAX_CHUNKS):
        if place + 8 > length:
            return
        file.seek(place)
        size, kind = struct.unpack(">I4s", file.read(8))
        if size == 1:
            size = int.from_bytes(file.read(8), "big")
        if size < 8:  # 0: to the end of the file; otherwise invalid
            if size == 0:
                yield kind, length
            return
        place += size
        yield kind, place


def end_of_segment(file: BinaryIO) -> int:
    """End offset of a Matroska segment; 0 if unknown."""
    file.seek(0)
    head = file.read(1024)
    place = head.find(SEGMENT) + len(SEGMENT)
    if place < len(SEGMENT) or place >= len(head) or not head[place]:
        return 0
    size_bytes = 9 - head[place].bit_length()  # EBML: leading zeros encode the length of the number
    unknown = (1 << 7 * size_bytes) - 1
    size = int.from_bytes(head[place : place + size_bytes], "big") & unknown
    return 0 if size == unknown else place + size_bytes + size


def closed(file: BinaryIO) -> BinaryIO:
    """Patch a streamed WAV, RF64, BW64, Wave64 or AU header so that it states a length.

    Returns ``file`` itself if nothing needs patching; leaves it at its start.
    """
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    patches: dict[int, bytes] = {}
    if head[:4] == b".snd" and head[8:] == bytes(4):
        patches = {8: b"\xff\xff\xff\xff"}
    elif head[:4] in (b"RIFF", b"RF64", b"BW64", b"riff"):
        patches = _patches(file, CONTAINERS[head[:4]], head[:4], length)
    file.seek(0)
    return FileWindow(file, [(0, length)], patches) if patches else file  # type: ignore[return-value]


def _patches(file: BinaryIO, chunks: ChunkLayout, mark: bytes, length: int) -> dict[int, bytes]:
    long_sizes: dict[int, bytes] = {}
    for kind, begin, _, size in chunks_of(file, chunks, length):
        if kind == b"ds64":
            long_sizes = {0: b"RIFF", begin - 8: b"JUNK"}
        if kind == chunks.sound and size is None and begin < length:
            if mark == b"riff":
                return {begin - 8: struct.pack("<Q", length - begin + 24)}
            return long_sizes | {begin - 4: b"\xff\xff\xff\xff"}
    return {}
