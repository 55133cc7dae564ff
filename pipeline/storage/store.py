"""Files on any filesystem pyarrow knows: local paths, ``s3://``, ``gs://``."""

import logging
import os
import re
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from glob import escape
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from acestep.errors import RequestError, RestyleError

S3_OPTIONS = {"endpoint_override", "scheme", "region"}
PAUSES_S = (1.0, 4.0, 10.0)
S3_ATTEMPTS = 10  # with exponential backoff: covers an outage of about half a minute
log = logging.getLogger(__name__)
Result = TypeVar("Result")
UNFINISHED = ".tmp"  # suffix of a file that is being written
_LOCAL = fs.LocalFileSystem()


class StorageError(RestyleError):
    """A location cannot be understood, read or written."""


@dataclass(frozen=True)
class Store:
    """A folder on a filesystem. Names are relative to the folder."""

    filesystem: fs.FileSystem
    root: str

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def exists(self, name: str) -> bool:
        info = self.retrying(lambda: self.filesystem.get_file_info(self.path(name)))
        return info.type != fs.FileType.NotFound

    def size(self, name: str) -> int | None:
        """Size of a file in bytes; None if it does not exist."""
        info = self.retrying(lambda: self.filesystem.get_file_info(self.path(name)))
        return info.size if info.is_file else None

    def files(self, folder: str, suffix: str, deep: bool = False) -> list[str]:
        """Sorted names of the files in ``folder`` that end in ``suffix``.

        Args:
            deep: include subfolders.
        """
        found = self.entries(folder, deep)
        return sorted(f.path[len(self.root) + 1 :] for f in found if f.is_file and f.path.endswith(suffix))

    def entries(self, folder: str, deep: bool = False) -> list[fs.FileInfo]:
        """Entries of a folder of any kind; empty if the folder does not exist."""
        selector = fs.FileSelector(self.path(folder), allow_not_found=True, recursive=deep)
        found: list[fs.FileInfo] = self.retrying(lambda: self.filesystem.get_file_info(selector))
        return found

    def retrying(self, action: "Callable[[], Result]") -> "Result":
        return run_on(self.filesystem, action)

    def read(self, name: str) -> bytes:
        return self.retrying(partial(_content, self.filesystem, self.path(name)))

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        """Write a file atomically; local files by renaming a temporary file."""
        final = self.path(name)
        unfinished = f"{final}.{uuid.uuid4().hex}{UNFINISHED}" if self.is_local else final

        def put() -> None:
            self._make_parent(name)
            with self.filesystem.open_output_stream(unfinished) as stream:
                stream.write(content)

        try:
            self.retrying(put)
            if self.is_local:
                self.retrying(lambda: self.filesystem.move(unfinished, final))
        except BaseException:
            if self.is_local:
                with suppress(OSError):
                    Path(unfinished).unlink()
            raise

    def remove_unfinished(self, name: str) -> None:
        """Remove temporary files left behind by processes that died while writing ``name``."""
        if self.is_local:
            final = Path(self.path(name))
            for unfinished in final.parent.glob(f"{escape(final.name)}.*{UNFINISHED}"):
                self.retrying(partial(unfinished.unlink, missing_ok=True))

    def _make_parent(self, name: str) -> None:
        if self.is_local:
            self.filesystem.create_dir(self.path(name).rsplit("/", 1)[0], recursive=True)

    def move(self, name: str, to: str) -> None:
        self._make_parent(to)
        self.retrying(lambda: self.filesystem.move(self.path(name), self.path(to)))

    def delete_folder(self, name: str) -> None:
        """Delete the contents of a folder, if it exists."""
        self.retrying(lambda: self.filesystem.delete_dir_contents(self.path(name), missing_dir_ok=True))

    def delete(self, name: str) -> None:
        """Delete a file, if it exists."""
        with suppress(FileNotFoundError):
            self.retrying(lambda: self.filesystem.delete_file(self.path(name)))


def read_file(filesystem: fs.FileSystem, path: str) -> bytes:
    """Content of a file, with retries on remote filesystems."""
    return run_on(filesystem, partial(_content, filesystem, path))


def _content(filesystem: fs.FileSystem, path: str) -> bytes:
    # Opening a pipe would block until a writer opens it.
    if isinstance(filesystem, fs.LocalFileSystem) and not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{path} is not a regular file")
    with filesystem.open_input_stream(path) as stream:
        return stream.read()


def run_on(filesystem: fs.FileSystem, action: Callable[[], Result]) -> Result:
    """Run a file operation, with retries on remote filesystems."""
    return action() if isinstance(filesystem, fs.LocalFileSystem) else with_retries(action)


def with_retries(action: Callable[[], Result]) -> Result:
    """Run ``action`` with retries after ``PAUSES_S``; the filesystem itself only repeats refused requests.

    Raises:
        OSError: from the last attempt, or immediately if the file is missing or access is denied.
    """
    for pause_s in PAUSES_S:
        try:
            return action()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            log.warning("%s; trying again in %g s", error, pause_s)
            time.sleep(pause_s)
    return action()


def locate(uri: str) -> tuple[fs.FileSystem, str]:
    """Filesystem and path of a URI or a local path; local paths become absolute.

    Raises:
        StorageError: the scheme is unknown or the URI is malformed.
    """
    if "://" not in uri:
        return _LOCAL, os.path.abspath(os.path.expanduser(uri))
    parts = urlsplit(uri, allow_fragments=False)  # a "#" is part of a name
    if parts.scheme == "file":
        return _LOCAL, unquote(parts.path)
    try:
        base = f"{parts.scheme}://{parts.netloc}" + (f"?{parts.query}" if parts.query else "")
        filesystem, root = _opened(base, os.environ.get("AWS_ENDPOINT_URL", ""))
    except (NotImplementedError, ValueError, OSError) as error:  # pyarrow raises subclasses of each
        raise StorageError("storage_error", f"not a location that can be opened ({error})", where=uri) from error
    return filesystem, root.rstrip("/") + unquote(parts.path)


@lru_cache(maxsize=64)
def _opened(base: str, s3_endpoint: str) -> tuple[fs.FileSystem, str]:
    """Filesystem and root of a bucket or host; cached, because opening one looks up credentials."""
    parts = urlsplit(base)
    if parts.scheme != "s3":
        return fs.FileSystem.from_uri(base)
    options = dict(parse_qsl(parts.query))
    unknown = sorted(options.keys() - S3_OPTIONS)
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}; known: {', '.join(sorted(S3_OPTIONS))}")
    endpoint = options.get("endpoint_override") or s3_endpoint
    scheme, _, host = endpoint.rpartition("://")
    retries = fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS)
    filesystem = fs.S3FileSystem(
        endpoint_override=host or None,
        scheme=options.get("scheme") or scheme or "https",
        region=options.get("region"),
        retry_strategy=retries,
        allow_delayed_open=True,  # one request instead of three for a small file
    )
    return filesystem, parts.netloc


def open_store(uri: str) -> Store:
    """The folder ``uri`` as a store; does not create it.

    Raises:
        StorageError: see ``locate``.
    """
    filesystem, path = locate(uri)
    return Store(filesystem, path.rstrip("/"))


@contextmanager
def no_empty_folders(store: Store) -> Iterator[None]:
    """Remove empty folders that the block created on the path of a local store."""
    root = Path(store.root)
    new = [folder for folder in (root, *root.parents) if store.is_local and not folder.exists()]
    try:
        yield
    finally:
        for folder in new:
            with suppress(OSError):  # not empty
                folder.rmdir()


def absolute(uri: str, base: str) -> str:
    """Resolve ``uri`` relative to the folder of ``base``; URIs and absolute paths are returned unchanged.

    A relative name is a plain path: if ``base`` is a URI, the name is percent-escaped.
    """
    if "://" in uri or os.path.isabs(os.path.expanduser(uri)):
        return uri
    if "://" not in base:
        return os.path.abspath(os.path.join(os.path.dirname(base), uri))
    base, _, query = base.partition("?")
    return f"{base.rsplit('/', 1)[0]}/{escaped(uri)}" + (f"?{query}" if query else "")


def escaped(path: str) -> str:
    """Percent-escape the characters of a plain path that have a meaning in URIs."""
    return re.sub("[%?]", lambda sign: quote(sign[0]), path)


def open_output(uri: str) -> Store:
    """Open an output folder and verify that it is writable.

    Raises:
        RequestError: the folder cannot be written.
    """
    store = open_store(uri)
    try:
        store.write(".writable", b"")
        store.delete(".writable")
    except OSError as error:
        raise RequestError("not_writable", f"cannot be written ({error})", field="output", value=uri) from error
    return store
