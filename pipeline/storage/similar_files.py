"""Find files with similar names in place of a missing one.

File lists lose Unicode normalization, case, spaces and punctuation in spreadsheets and other systems. A file whose
name differs by Unicode normalization alone (macOS decomposes names) is used in place of the missing one. Files
that differ otherwise are only named in the error message.
"""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from threading import RLock
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from acestep.errors import RestyleError
from acestep.parameters.values import composed
from pipeline.storage.read_timeout import DEFAULT_READ_TIMEOUT, ReadTimeout, reader_pool
from pipeline.storage.source_errors import SourceTimeoutError
from pipeline.storage.store import StorageError, escaped, locate, run_on

THREADS = 16
# Remote listings cost a request per thousand names and cannot be cancelled.
MAX_LISTED = 1000  # folders
LISTING_S = 20.0
MAX_NAMED = 3
FORM = "Unicode form"
ENCODINGS = ("cp1252", "latin-1", "cp437")  # of spreadsheets, and of archives
_WINDOWS_DRIVE = re.compile(r"(?:^|/)[A-Za-z]:[\\/]")


def _caseless(name: str) -> str:
    return composed(composed(name).casefold())


def _spaceless(name: str) -> str:
    return " ".join(_caseless(unicodedata.normalize("NFKC", name)).split())


def alphanumerics(name: str) -> str:
    """Case-folded letters and digits of a name."""
    return re.sub(r"[\W_]+", "", _spaceless(name))


def _unaccented(name: str) -> str:
    apart = unicodedata.normalize("NFD", alphanumerics(name))
    return "".join(letter for letter in apart if not unicodedata.combining(letter))


def _unescaped(name: str) -> str:
    return alphanumerics(unquote(name))


def _redecoded(name: str) -> str:
    """Undo mojibake: UTF-8 that was decoded with another encoding."""
    if not _is_text(name):  # a name on disk that is not UTF-8, with its bytes as surrogates
        return alphanumerics(os.fsencode(name).decode("cp1252", errors="replace"))
    for encoding in ENCODINGS:
        with suppress(UnicodeError):
            return alphanumerics(name.encode(encoding).decode())
    return alphanumerics(name)


def _stem(name: str) -> str:
    return alphanumerics(name.rpartition(".")[0] or name)


# Kinds of differences between names, smallest first, each with the key under which such names are equal.
DIFFERENCES: Mapping[str, Callable[[str], str]] = {
    FORM: composed,
    "case": _caseless,
    "spaces": _spaceless,
    "punctuation": alphanumerics,
    "accents": _unaccented,
    "percent signs": _unescaped,
    "the encoding of the name": _redecoded,
    "the extension": _stem,
}
RANKS = ("", *DIFFERENCES)


@dataclass(frozen=True)
class NearbyFiles:
    """Result of the search for a missing file.

    uri: file whose path differs by Unicode form alone, or None.
    hint: description of other similar files; "" if there are none.
    """

    uri: str | None = None
    hint: str = ""


class FolderListings:
    """Cached, thread-safe folder listings."""

    def __init__(self, timeout: ReadTimeout = DEFAULT_READ_TIMEOUT) -> None:
        self.timeout = timeout
        self.lock = RLock()
        self.names: dict[tuple[int, str], frozenset[str] | None] = {}
        self.alike: dict[tuple[int, str, str], dict[str, list[str]]] = {}
        self.listed = 0

    def near(self, uri: str) -> NearbyFiles:
        """Search for files similar to a missing one."""
        try:
            filesystem, path = locate(uri)
        except StorageError:
            return NearbyFiles()
        with self.lock:
            found, difference = self._find(filesystem, path)
            if len(found) == 1 and difference in ("", FORM):
                return NearbyFiles(_uri_of(found[0], path, uri))
            if not found and "\\" in path:
                found, difference = self._find(filesystem, path.replace("\\", "/"))[0], "backslashes"
            return NearbyFiles(
                hint=_there_is(found, path, difference) if found else self._missing_part(filesystem, path)
            )

    def actual(self, uris: Collection[str]) -> dict[str, str]:
        """Map each URI that exists only under another Unicode form to the URI of the existing file.

        Pure ASCII names have a single form and are skipped.
        """
        asked = [uri for uri in uris if not unquote(uri).isascii()]
        if not asked:
            return {}
        with reader_pool(THREADS, self.timeout) as (pool, timeout):
            found = zip(asked, pool.map(partial(self._actual, timeout=timeout), asked), strict=True)
            return {uri: other for uri, other in found if other is not None}

    def _actual(self, uri: str, timeout: ReadTimeout) -> str | None:
        with suppress(RestyleError, OSError, ValueError):
            return None if _is_there(uri, timeout) else self.near(uri).uri
        return None

    def _find(self, filesystem: fs.FileSystem, path: str) -> tuple[list[str], str]:
        """The most similar existing paths, and their greatest kind of difference."""
        folder, _, name = path.rpartition("/")
        found, difference = [folder], ""
        if self._names(filesystem, folder) is None:
            found, difference = self._find(filesystem, folder) if folder else ([], "")
        if len(found) != 1:
            return [], ""
        folder, names = found[0], self._names(filesystem, found[0]) or frozenset()
        if name in names:
            return [f"{folder}/{name}"], difference
        for more, common in DIFFERENCES.items():
            key = (id(filesystem), folder, more)
            if key not in self.alike:
                self.alike[key] = defaultdict(list)
                for other in sorted(names):
                    self.alike[key][common(other)].append(other)
            if common(name) and (alike := self.alike[key].get(common(name))):
                return [f"{folder}/{other}" for other in alike], max(difference, more, key=RANKS.index)
        return [], ""

    def _names(self, filesystem: fs.FileSystem, folder: str) -> frozenset[str] | None:
        """Names in a folder; None if it is missing or cannot be listed."""
        key = (id(filesystem), folder)
        if key not in self.names:
            self.names[key] = None
            with suppress(OSError, ValueError, pa.ArrowException, SourceTimeoutError):
                if isinstance(filesystem, fs.LocalFileSystem):
                    listed = self.timeout.run(folder or "/", lambda tick: os.listdir(folder or "/"))
                    self.names[key] = frozenset(listed)
                elif self.listed < MAX_LISTED:
                    self.listed += 1
                    self.names[key] = frozenset(self._listed(filesystem, folder))
        return self.names[key]

    def _listed(self, filesystem: fs.FileSystem, folder: str) -> list[str]:
        """Names in a remote folder. A timeout disables further remote listings."""
        timeout = replace(self.timeout, timeout_s=min(LISTING_S, self.timeout.timeout_s))
        selector = fs.FileSelector(folder)
        try:
            uri = f"{type(filesystem).__name__}://{folder}"
            infos: list[fs.FileInfo] = timeout.run(uri, lambda tick: filesystem.get_file_info(selector))
        except SourceTimeoutError:
            self.listed = MAX_LISTED
            raise
        return [info.base_name for info in infos]

    def _is_folder(self, filesystem: fs.FileSystem, path: str) -> bool:
        local = isinstance(filesystem, fs.LocalFileSystem)
        uri = path if local else f"{type(filesystem).__name__}://{path}"
        info = self.timeout.run(uri, lambda tick: filesystem.get_file_info(path))
        found: bool = info.type == fs.FileType.Directory
        return found

    def _missing_part(self, filesystem: fs.FileSystem, path: str) -> str:
        """Hint for a path without similar files: a missing parent folder, or a Windows drive."""
        if _WINDOWS_DRIVE.search(path):
            return "a path of Windows names no file on this machine"
        missing = path
        with suppress(OSError, ValueError, pa.ArrowException, SourceTimeoutError):
            while (folder := missing.rpartition("/")[0]) and not self._is_folder(filesystem, folder):
                missing = folder
        if missing == path:
            return ""
        found, difference = self._find(filesystem, missing)
        folders = [other for other in found if difference and self._is_folder(filesystem, other)]
        hint = f"; {_there_is(folders, missing, difference)}" if folders else ""
        return f"there is no folder {missing!r}{hint}"


class MissingFileError(RestyleError):
    """A file does not exist; the message names similar files."""


def resolve_unicode_form(uri: str, timeout: ReadTimeout = DEFAULT_READ_TIMEOUT) -> str:
    """``uri`` if the file exists, else the existing URI that differs by Unicode form alone.

    Raises:
        MissingFileError: neither exists.
        StorageError, SourceTimeoutError, OSError: the location cannot be read.
    """
    if _is_there(uri, timeout):
        return uri
    near = FolderListings(timeout).near(uri)
    if near.uri is None:
        raise MissingFileError("missing_file", "", near.hint)
    return near.uri


def no_such_file(near: NearbyFiles) -> str:
    return "no such file" + (f"; {near.hint}" if near.hint else "")


def _is_there(uri: str, timeout: ReadTimeout) -> bool:
    filesystem, path = locate(uri)
    look = partial(filesystem.get_file_info, path)
    info: fs.FileInfo = timeout.run(uri, lambda tick: run_on(filesystem, look))
    return info.type != fs.FileType.NotFound


def _there_is(found: list[str], path: str, difference: str) -> str:
    folder = path.rpartition("/")[0]
    names = [other.removeprefix(f"{folder}/") for other in found[:MAX_NAMED]]
    more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    if not all(map(_is_text, names)):
        return f"there is {', '.join(map(repr, names))}{more}, whose name is not UTF-8; rename it"
    return f"there is {', '.join(map(repr, names))}{more}, which differs in {difference}"


def _uri_of(found: str, path: str, uri: str) -> str:
    """URI of the path ``found``, which replaces ``path`` of ``uri``."""
    if "://" not in uri or uri.startswith("file:"):
        return found
    parts = urlsplit(uri, allow_fragments=False)
    name = found.removeprefix(path.removesuffix(unquote(parts.path)))
    return f"{parts.scheme}://{parts.netloc}{escaped(name)}" + (f"?{parts.query}" if parts.query else "")


def _is_text(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)
