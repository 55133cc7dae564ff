"""Random access to a file by large reads, and a part of a file that reads like a file of its own."""

import io
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import BinaryIO

BLOCK_BYTES = 1 << 20
_NOT_ZERO = re.compile(rb"[^\0]")


class FileWindow(io.RawIOBase):
    """Ranges of a file, from a byte up to another, as a file of their own; read-only.

    patches: bytes that are read instead of the file's own, by their place in the window.
    """

    def __init__(
        self, file: BinaryIO, ranges: Sequence[tuple[int, int]], patches: Mapping[int, bytes] | None = None
    ):
        super().__init__()
        self.file, self.ranges, self.patches = file, ranges, patches or {}
        self.ends = list(accumulate(end - start for start, end in ranges))
        self.place = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The place in the window."""
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in the window."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.ends[-1]}[whence]
        self.place = max(origin + offset, 0)
        return self.place

    def read(self, size: int | None = -1) -> bytes:
        """Up to ``size`` bytes."""
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
        """Fill a buffer as far as the window goes."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


class BlockReader:
    """Bytes of a file at any place, kept a block at a time: small reads forwards cost no request each.

    length: of the file in bytes.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.length = file.seek(0, io.SEEK_END)
        self.first, self.block = 0, b""

    def at(self, place: int, size: int) -> bytes:
        """``size`` bytes (at most a block) from ``place`` on, fewer at the end of the file."""
        begin = place - self.first
        if begin < 0 or begin + size > len(self.block):
            self.file.seek(place)
            self.first, self.block, begin = place, self.file.read(max(size, BLOCK_BYTES)), 0
        return self.block[begin : begin + size]

    def find(self, pattern: re.Pattern[bytes], place: int) -> int:
        """Where something that matches, of 16 bytes at most, stands next; the end where nothing does."""
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
        """Whether there are only zeros from ``place`` to ``end``."""
        return self.find(_NOT_ZERO, place) >= end
