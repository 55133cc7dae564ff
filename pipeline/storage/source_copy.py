"""Private copies of source files, read once and hashed while read: the digest covers exactly the decoded bytes."""

import hashlib
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, cast

from pyarrow import fs

from acestep.audio.regular_files import open_regular
from acestep.constants import MAX_FILE_BYTES
from acestep.errors import AudioError, GenerationError
from pipeline.storage.read_timeout import ReadTimeout, Tick
from pipeline.storage.store import locate, run_on

READ_BYTES = 1 << 20
REQUEST_BYTES = 16 << 20  # remote files: every read is a request
IN_MEMORY_BYTES = 64 << 20  # larger copies go to a temporary file


@dataclass(frozen=True)
class SourceCopy:
    """An immutable copy of a file.

    digest: hexadecimal SHA-256 of its bytes.
    """

    file: BinaryIO
    digest: str


class _TickingFile(io.FileIO):
    """A file that calls ``tick`` after every read."""

    def __init__(self, descriptor: int, tick: Tick):
        super().__init__(descriptor, "rb")
        self.tick = tick

    def readinto(self, buffer: bytearray | memoryview) -> int | None:  # type: ignore[override]
        count = super().readinto(buffer)
        self.tick()
        return count


def copy_source(uri: str, timeout: ReadTimeout) -> SourceCopy:
    """Copy a file given by path or URI.

    Raises:
        SourceTimeoutError, ReadStoppedError: see ``ReadTimeout.run``.
        NotAFileError: the path is not a regular file.
        AudioError: the file has more than ``MAX_FILE_BYTES``.
        GenerationError: there is no space for the copy.
        StorageError, OSError: the file cannot be located or read.
    """
    return timeout.run(uri, lambda tick: copy_in_reader(*locate(uri), tick))


def copy_in_reader(filesystem: fs.FileSystem, path: str, tick: Tick) -> SourceCopy:
    """``copy_source`` for callers inside ``ReadTimeout.run``."""
    return run_on(filesystem, partial(_copied, filesystem, path, tick))


def _copied(filesystem: fs.FileSystem, path: str, tick: Tick) -> SourceCopy:
    tick()
    size, digest = 0, hashlib.sha256()
    file = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115  (the caller closes it)
    for chunk in _chunks(filesystem, path):
        tick()
        size += len(chunk)
        refuse_larger(size)
        digest.update(chunk)
        try:
            file.write(chunk)
        except OSError as error:
            room = f"no room for a copy of {size} bytes in {tempfile.gettempdir()} ({error})"
            raise GenerationError("storage_error", room, "set TMPDIR") from error
    file.seek(0)
    return SourceCopy(cast(BinaryIO, file), digest.hexdigest())


def _chunks(filesystem: fs.FileSystem, path: str) -> Iterator[bytes]:
    if isinstance(filesystem, fs.LocalFileSystem):
        with open(open_regular(path), "rb", buffering=0) as file:
            while chunk := file.read(READ_BYTES):
                yield chunk
    else:
        with filesystem.open_input_stream(path) as stream:
            while chunk := stream.read(REQUEST_BYTES):
                yield chunk


def open_in_reader(filesystem: fs.FileSystem, path: str, tick: Tick) -> BinaryIO:
    """Open a file for random access inside ``ReadTimeout.run``: local files directly, remote files as a copy.

    Raises:
        See ``copy_source``.
    """
    if isinstance(filesystem, fs.LocalFileSystem):
        return io.BufferedReader(_TickingFile(open_regular(path), tick), READ_BYTES)
    return _copied(filesystem, path, tick).file


def refuse_larger(size: int) -> None:
    """Check a file size.

    Raises:
        AudioError: ``size`` exceeds ``MAX_FILE_BYTES``.
    """
    if size > MAX_FILE_BYTES:
        reason = f"{size} bytes are more than the {MAX_FILE_BYTES} of any usable track"
        raise AudioError("unreadable_audio", reason, "cut or convert it")
