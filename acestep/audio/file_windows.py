"""Parts of a file as a file object, and buffered random access."""

import io
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import BinaryIO

BLOCK_BYTES = 1 << 20
_NOT_ZERO = re.compile(rb"[^\0]")


class FileWindow(io.RawIOBase):
    """Read-only file over the concatenated ranges (start, end) of another file.

    patches: replacement bytes by their offset in the window.
    """

    def __init__(
        self, file: BinaryIO, ranges: Sequence[tuple[int, int]], patches: Mapping[int, bytes] | None = None
    ):
        super().__init__()
        self.file, self.ranges, self.patches = file, ranges, patches or {}
        self.ends = list(accumulate(end - start for start, end in ranges))
        self.place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.ends[-1]}[whence]
        self.place = max(origin + offset, 0)
        return self.place

    def read(self, size: int | None = -1) -> bytes:
        left = max(self.ends[-1] - self.place, 0)
        size = left if size is None or size < 0 else min(size, left)
        content = bytearray()
        while len(content) < size:
            place = self.place + len(content)
            number = bisect_right(self.ends, place)
            end = self.ranges[number][1]
            begin = end - (self.ends[number] - place)
            self.file.seek(begin)
            piece = self.file.read(min(end - begin, size - len(content)))
            if not piece:
                break
            content += piece
        for at, patch in self.patches.items():
            first, last = max(at, self.place), min(at + len(patch), self.place + len(content))
            if first < last:
                content[first - self.place : last - self.place] = patch[first - at : last - at]
        self.place += len(content)
        return bytes(content)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


class BlockReader:
    """Random access to a file with a buffer of one block, for many small forward reads.

    length: file size in bytes.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.length = file.seek(0, io.SEEK_END)
        self.first, self.block = 0, b""

    def at(self, place: int, size: int) -> bytes:
        """``size`` bytes (at most a block) at offset ``place``, fewer at the end of the file."""
        begin = place - self.first
        if begin < 0 or begin + size > len(self.block):
            self.file.seek(place)
            self.first, self.block, begin = place, self.file.read(max(size, BLOCK_BYTES)), 0
        return self.block[begin : begin + size]

    def find(self, pattern: re.Pattern[bytes], place: int) -> int:
        """Offset of the next match of at most 16 bytes; ``length`` if there is none."""
        while place < self.length:
            self.at(place, 16)
            match = pattern.search(self.block, place - self.first)
            if match:
                return self.first + match.start()
            end = self.first + len(self.block)
            if end >= self.length or not self.block:
                break
            place = max(end - 15, place + 1)
        return self.length

    def is_blank(self, place: int, end: int) -> bool:
        """Whether all bytes from ``place`` to ``end`` are zero."""
        return self.find(_NOT_ZERO, place) >= end
