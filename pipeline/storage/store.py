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
S3_ATTEMPTS = 10  # with growing pauses between them: a server that is down for half a minute costs no result
log = logging.getLogger(__name__)
Result = TypeVar("Result")
UNFINISHED = ".tmp"  # how the name of a file ends that is being written
_LOCAL = fs.LocalFileSystem()


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
        info = self.retrying(lambda: self.filesystem.get_file_info(self.path(name)))
        return info.type != fs.FileType.NotFound

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        info = self.retrying(lambda: self.filesystem.get_file_info(self.path(name)))
        return info.size if info.is_file else None

    def files(self, folder: str, suffix: str, deep: bool = False) -> list[str]:
        """Names (relative to this store) of the files of ``folder`` ending in ``suffix``, sorted.

        Args:
            deep: those of the folders in it too.
        """
        found = self.entries(folder, deep)
        return sorted(f.path[len(self.root) + 1 :] for f in found if f.is_file and f.path.endswith(suffix))

    def entries(self, folder: str, deep: bool = False) -> list[fs.FileInfo]:
        """What is in a folder, of any kind; nothing where the folder is not there."""
        selector = fs.FileSelector(self.path(folder), allow_not_found=True, recursive=deep)
        found: list[fs.FileInfo] = self.retrying(lambda: self.filesystem.get_file_info(selector))
        return found

    def retrying(self, action: "Callable[[], Result]") -> "Result":
        """Do something with files; behind a network, again after growing pauses when a transfer breaks off."""
        return action() if self.is_local else with_retries(action)

    def read(self, name: str) -> bytes:
        return self.retrying(partial(_content, self.filesystem, self.path(name)))

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        """Write a file whole or not at all: object stores do so themselves, elsewhere by renaming."""
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
        """Remove what processes that died while they wrote this file left of it."""
        if self.is_local:
            final = Path(self.path(name))
            for unfinished in final.parent.glob(f"{escape(final.name)}.*{UNFINISHED}"):
                self.retrying(partial(unfinished.unlink, missing_ok=True))

    def _make_parent(self, name: str) -> None:
        """Create the folder of a file; object stores have none."""
        if self.is_local:
            self.filesystem.create_dir(self.path(name).rsplit("/", 1)[0], recursive=True)

    def move(self, name: str, to: str) -> None:
        """Give a file another name."""
        self._make_parent(to)
        self.retrying(lambda: self.filesystem.move(self.path(name), self.path(to)))

    def delete_folder(self, name: str) -> None:
        """Remove a folder and what is in it; one that is not there is fine."""
        self.retrying(lambda: self.filesystem.delete_dir_contents(self.path(name), missing_dir_ok=True))

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is fine."""
        try:
            self.retrying(lambda: self.filesystem.delete_file(self.path(name)))
        except FileNotFoundError:
            return


def read_file(filesystem: fs.FileSystem, path: str) -> bytes:
    """A file's content; where it lies behind a network, transfers that break off are tried again."""
    get = partial(_content, filesystem, path)
    return get() if isinstance(filesystem, fs.LocalFileSystem) else with_retries(get)


def _content(filesystem: fs.FileSystem, path: str) -> bytes:
    # Opening a pipe would wait for somebody to write into it.
    if isinstance(filesystem, fs.LocalFileSystem) and not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{path} is not a regular file")
    with filesystem.open_input_stream(path) as stream:
        return stream.read()


def with_retries(action: Callable[[], Result]) -> Result:
    """Run ``action`` again, after growing pauses, when a transfer breaks off; the filesystem itself only repeats
    requests that were refused.

    Raises:
        OSError: of the last try, or at once where trying again cannot help.
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
    """Filesystem and path of a URI or a local path (made absolute, so that workers find it too).

    Raises:
        StorageError: the scheme is unknown or the URI is malformed.
    """
    if "://" not in uri:
        return _LOCAL, os.path.abspath(os.path.expanduser(uri))
    parts = urlsplit(uri, allow_fragments=False)  # a "#" is part of a name
    if parts.scheme == "file":
        return _LOCAL, unquote(parts.path)
    try:
        filesystem, root = _opened(f"{parts.scheme}://{parts.netloc}" + (f"?{parts.query}" if parts.query else ""))
    except (NotImplementedError, ValueError, OSError) as error:  # pyarrow raises subclasses of each
        raise StorageError(f"{uri}: not a location that can be opened ({error})") from error
    return filesystem, root.rstrip("/") + unquote(parts.path)


@lru_cache(maxsize=64)
def _opened(base: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a bucket or host and its root, opened once: each opening looks for credentials."""
    parts = urlsplit(base)
    if parts.scheme != "s3":
        return fs.FileSystem.from_uri(base)
    options = dict(parse_qsl(parts.query))
    unknown = sorted(options.keys() - S3_OPTIONS)
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}; known: {', '.join(sorted(S3_OPTIONS))}")
    endpoint = options.get("endpoint_override") or os.environ.get("AWS_ENDPOINT_URL", "")
    scheme, _, host = endpoint.rpartition("://")
    timeout = fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS)
    filesystem = fs.S3FileSystem(
        endpoint_override=host or None,
        scheme=options.get("scheme") or scheme or "https",
        region=options.get("region"),
        retry_strategy=timeout,
        allow_delayed_open=True,  # one request for a small file, not three
    )
    return filesystem, parts.netloc


def open_store(uri: str) -> Store:
    """The folder ``uri`` as a store; nothing is created.

    Raises:
        StorageError: see ``locate``.
    """
    filesystem, path = locate(uri)
    return Store(filesystem, path.rstrip("/"))


@contextmanager
def no_empty_folders(store: Store) -> Iterator[None]:
    """Remove the folders that the block makes on the way to a local store and leaves empty."""
    root = Path(store.root)
    new = [folder for folder in (root, *root.parents) if store.is_local and not folder.exists()]
    try:
        yield
    finally:
        for folder in new:
            with suppress(OSError):  # it holds something now
                folder.rmdir()


def absolute(uri: str, base: str) -> str:
    """``uri`` as it is when it names a scheme or an absolute path, else relative to the folder of ``base``.

    A relative name is a plain one, also where ``base`` is a URI: characters with a meaning in URIs are escaped.
    """
    if "://" in uri or os.path.isabs(os.path.expanduser(uri)):
        return uri
    if "://" not in base:
        return os.path.abspath(os.path.join(os.path.dirname(base), uri))
    base, _, query = base.partition("?")
    return f"{base.rsplit('/', 1)[0]}/{escaped(uri)}" + (f"?{query}" if query else "")


def escaped(path: str) -> str:
    """A plain path as a URI has it."""
    return re.sub("[%?]", lambda sign: quote(sign[0]), path)


def open_output(uri: str) -> Store:
    """The output folder, proven to be writable.

    Raises:
        RequestError: it cannot be written.
    """
    store = open_store(uri)
    try:
        store.write(".writable", b"")
        store.delete(".writable")
    except OSError as error:
        raise RequestError(f"output {uri}: cannot be written ({error})") from error
    return store
