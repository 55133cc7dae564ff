"""Files on any filesystem pyarrow knows: local paths, ``s3://``, ``gs://``."""

import uuid
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from acestep.errors import RestyleError


class StorageError(RestyleError):
    """A location cannot be understood, read or written."""


@dataclass(frozen=True)
class Store:
    """A folder on a filesystem; every path handed to it is relative to that folder."""

    filesystem: fs.FileSystem
    root: str

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def path(self, name: str) -> str:
        """The path of ``name`` as the filesystem wants it."""
        return f"{self.root}/{name}" if name else self.root

    def exists(self, name: str) -> bool:
        return self.filesystem.get_file_info(self.path(name)).type != fs.FileType.NotFound

    def files(self, folder: str, suffix: str) -> list[str]:
        """Names (relative to this store) of the files of ``folder`` ending in ``suffix``, sorted."""
        selector = fs.FileSelector(self.path(folder), allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return sorted(f"{folder}/{f.base_name}" for f in found if f.is_file and f.base_name.endswith(suffix))

    def read(self, name: str) -> bytes:
        with self.filesystem.open_input_stream(self.path(name)) as stream:
            return stream.read()

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        """Write a file whole or not at all: object stores do so themselves, elsewhere by renaming."""
        final = self.path(name)
        if not self.is_local:
            with self.filesystem.open_output_stream(final) as stream:
                stream.write(content)
            return
        self.filesystem.create_dir(final.rsplit("/", 1)[0], recursive=True)
        unfinished = f"{final}.{uuid.uuid4().hex}.tmp"
        try:
            with self.filesystem.open_output_stream(unfinished) as stream:
                stream.write(content)
            self.filesystem.move(unfinished, final)
        except BaseException:
            Path(unfinished).unlink(missing_ok=True)
            raise

    def delete_folder(self, name: str) -> None:
        """Remove a folder and what is in it; one that is not there is fine."""
        self.filesystem.delete_dir_contents(self.path(name), missing_dir_ok=True)

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is fine."""
        try:
            self.filesystem.delete_file(self.path(name))
        except FileNotFoundError:
            return


def locate(uri: str) -> tuple[fs.FileSystem, str]:
    """Filesystem and path of a URI or a local path (made absolute, so that workers find it too).

    Raises:
        StorageError: the scheme is unknown or the URI is malformed.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    try:
        return fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, ValueError, OSError) as error:
        raise StorageError(f"{uri}: not a location that can be opened ({error})") from error


def open_store(uri: str) -> Store:
    """The folder ``uri`` as a store; nothing is created.

    Raises:
        StorageError: see ``locate``.
    """
    filesystem, path = locate(uri)
    return Store(filesystem, path.rstrip("/"))


def absolute(uri: str, base: str) -> str:
    """``uri`` as it is when it names a scheme or an absolute path, else relative to the folder of ``base``."""
    if "://" in uri or uri.startswith(("/", "~")):
        return uri
    folder = base.rsplit("/", 1)[0] if "/" in base else "."
    joined = f"{folder}/{uri}"
    return joined if "://" in base else str(Path(joined).absolute())
