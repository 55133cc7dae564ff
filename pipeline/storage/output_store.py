"""The output folder of a job. Storage faults are raised as ``OutputError``, distinct from faults of a source."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from pipeline.storage.store import Store

Result = TypeVar("Result")
REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there or have the quota raised",
    errno.EFBIG: "allow larger files there",
    errno.EROFS: "make it writable",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.ENOENT: "the folder was moved or deleted",
}


class OutputError(OSError):
    """An output folder cannot be read or written."""

    def __init__(self, message: str, number: int | None = None):
        super().__init__(message)
        self.errno = number

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.errno)


@dataclass(frozen=True)
class OutputStore(Store):
    """A store that raises ``OutputError`` for every storage fault and does not recreate a folder that was removed.

    Reading a missing file raises FileNotFoundError, as in any store.
    """

    def retrying(self, action: "Callable[[], Result]") -> "Result":
        try:
            return super().retrying(action)
        except (FileNotFoundError, OutputError):
            raise
        except OSError as error:
            raise self._fault(error) from error

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        try:
            super().write(name, content)
        except FileNotFoundError as error:
            raise self._fault(error) from error

    def _make_parent(self, name: str) -> None:
        if not self.is_local:
            return
        folder = self.root
        for part in name.split("/")[:-1]:
            folder = f"{folder}/{part}"
            with suppress(FileExistsError):
                os.mkdir(folder)

    def _fault(self, error: OSError) -> OutputError:
        place = self.root if self.is_local else f"{self.filesystem.type_name}://{self.root}"
        reason = os.strerror(error.errno) if error.errno else str(error)
        remedy = REMEDIES.get(error.errno or 0)
        return OutputError(f"output {place}: {reason}" + (f"; {remedy}" if remedy else ""), error.errno)
