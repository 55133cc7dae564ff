"""Digest and duration of source files, cached in the output folder."""

import hashlib
import io
import logging
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from acestep.audio.decoding import header_seconds
from acestep.constants import NUMERICS_VERSION
from acestep.errors import AudioError, RestyleError
from acestep.redaction import redacted
from pipeline.storage.parquet_parts import PartError, PartFormat, part_names, read_part, write_part
from pipeline.storage.read_timeout import DEFAULT_READ_TIMEOUT, ReadTimeout, Tick, mount_of, reader_pool
from pipeline.storage.similar_files import FolderListings, NearbyFiles, no_such_file
from pipeline.storage.source_copy import READ_BYTES, open_in_reader, refuse_larger
from pipeline.storage.source_errors import SourceError, SourceTimeoutError, source_kind
from pipeline.storage.store import Store, locate, run_on, with_retries

PROBES = "probes"
THREADS = 16
AT_ONCE = 64  # remote files per progress tick; pyarrow queries them sequentially
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Probe:
    """Digest and duration of a file, or the reason why it cannot be used.

    digest: hexadecimal SHA-256.
    duration_s: from the header; None if the header does not state it.
    """

    digest: str = ""
    duration_s: float | None = None
    error_kind: str | None = None
    error: str | None = None


SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("size", pa.int64()),
        ("modified_ns", pa.int64()),
        ("digest", pa.string()),
        ("duration_s", pa.float64()),
        ("error_kind", pa.string()),
        ("error", pa.string()),
        ("numerics_version", pa.int32()),  # of the code that read the duration
    ]
)


PROBED = PartFormat(SCHEMA, ("uri", "size", "modified_ns", "digest"))


class FileVersion(NamedTuple):
    """Size and modification time, which identify a version of a file."""

    size: int
    modified_ns: int


class ProbeCache:
    """Cache of probes; probes only files that are new or have changed since an earlier launch.

    Entries are keyed by the redacted URI, so a changed signature or password does not invalidate them.

    suspects: files to probe again although size and time match, because a worker read different content.
    """

    def __init__(
        self,
        store: Store,
        launch: str,
        timeout: ReadTimeout = DEFAULT_READ_TIMEOUT,
        suspects: Collection[str] = (),
    ):
        self.store, self.launch, self.timeout = store, launch, timeout
        self.suspects = frozenset(suspects)
        self.folders = FolderListings(timeout)
        known = pa.concat_tables([SCHEMA.empty_table(), *_remembered(store)])
        # Newest first, because index_in returns the first match.
        self.known = known.filter(pc.equal(known["numerics_version"], NUMERICS_VERSION)).combine_chunks()[::-1]
        self.parts = count()

    def of(self, uris: Sequence[str]) -> dict[str, Probe]:
        unique = list(dict.fromkeys(uris))
        seen = _seen(unique, self.timeout)
        found: dict[str, Probe] = {}
        places = pc.index_in(pa.array(map(redacted, unique), pa.string()), value_set=self.known["uri"])
        known = pa.array(unique, pa.string()).filter(places.is_valid()).to_pylist()
        remembered = self.known.take(places.drop_null()).to_pylist()
        for uri, row in zip(known, remembered, strict=True):
            if seen[uri] == (row["size"], row["modified_ns"]) and row["uri"] not in self.suspects:
                found[uri] = Probe(row["digest"], row["duration_s"], row["error_kind"], row["error"])
        fresh = [uri for uri in unique if uri not in found]
        if fresh:
            looked = _probed(fresh, self.folders, self.timeout)
            found |= looked
            self._remember({uri: p for uri, p in looked.items() if p.digest}, seen)
        return found

    def _remember(self, looked: dict[str, Probe], seen: dict[str, FileVersion | None]) -> None:
        # A file replaced during the read has the old version and the new digest: compare versions again.
        local = [uri for uri in looked if _is_local(uri)]
        after = seen | _seen(local, self.timeout)
        rows = [
            {"uri": redacted(uri), "size": one.size, "modified_ns": one.modified_ns, **asdict(probe)}
            | {"numerics_version": NUMERICS_VERSION}
            for uri, probe in looked.items()
            if (one := seen[uri]) is not None and one == after[uri]
        ]
        if rows:
            table = pa.Table.from_pylist(rows, schema=SCHEMA)
            write_part(self.store, PROBES, self.launch, next(self.parts), table)


def _remembered(store: Store) -> Iterator[pa.Table]:
    """Parts written by earlier launches; damaged parts are deleted, because probes can be repeated."""
    for name in part_names(store, PROBES):
        try:
            yield read_part(store, name, PROBED)
        except PartError as error:
            if error.is_damaged:
                log.warning("%s was damaged (%s) and is deleted; its sources are read again", name, error.cause)
                store.delete(name)
            else:
                log.warning("%s; it is left out", error)


def probe_all(uris: Sequence[str], timeout: ReadTimeout = DEFAULT_READ_TIMEOUT) -> dict[str, Probe]:
    """Probe files without a cache."""
    return _probed(list(dict.fromkeys(uris)), FolderListings(timeout), timeout)


def _probed(uris: Sequence[str], folders: FolderListings, timeout: ReadTimeout) -> dict[str, Probe]:
    with reader_pool(THREADS, timeout) as (pool, timeout):
        look = partial(probe, folders=folders, timeout=timeout)
        return dict(zip(uris, pool.map(look, uris), strict=True))


def _is_local(uri: str) -> bool:
    return isinstance(locate(uri)[0], fs.LocalFileSystem)


def _seen(uris: Sequence[str], timeout: ReadTimeout) -> dict[str, FileVersion | None]:
    """Version of each file; None if it is missing or unreachable."""
    seen: dict[str, FileVersion | None] = dict.fromkeys(uris)
    groups: dict[int, tuple[fs.FileSystem, dict[str, str]]] = {}
    for uri in uris:
        try:
            filesystem, path = locate(uri)
        except RestyleError:
            continue
        groups.setdefault(id(filesystem), (filesystem, {}))[1][uri] = path
    for filesystem, paths in groups.values():
        if isinstance(filesystem, fs.LocalFileSystem):
            seen |= _seen_locally(paths, timeout)
        else:
            seen |= _seen_remotely(filesystem, paths, timeout)
    return seen


def _seen_locally(paths: dict[str, str], timeout: ReadTimeout) -> dict[str, FileVersion | None]:
    """``_seen`` for local files; skips the other files of a location that hangs."""
    seen: dict[str, FileVersion | None] = {}
    left = list(paths.items())
    while left:
        asked: list[tuple[str, str]] = []

        def ask(tick: Tick, left: list[tuple[str, str]] = left, asked: list[tuple[str, str]] = asked) -> None:
            for uri, path in left:
                tick()
                asked.append((uri, path))
                try:
                    info = os.stat(path)
                    seen[uri] = FileVersion(info.st_size, info.st_mtime_ns) if stat.S_ISREG(info.st_mode) else None
                except (OSError, ValueError):
                    seen[uri] = None

        try:
            timeout.run(left[0][1], ask)
            left = []
        except SourceTimeoutError:
            dead = mount_of(asked[-1][1] if asked else left[0][1])
            left = [pair for pair in left[len(asked) :] if mount_of(pair[1]) != dead]
    return dict.fromkeys(paths) | seen


def _seen_remotely(
    filesystem: fs.FileSystem, paths: dict[str, str], timeout: ReadTimeout
) -> dict[str, FileVersion | None]:
    def ask(tick: Tick) -> list[fs.FileInfo]:
        def once() -> list[fs.FileInfo]:
            names, infos = list(paths.values()), []
            for start in range(0, len(names), AT_ONCE):
                tick()
                infos += filesystem.get_file_info(names[start : start + AT_ONCE])
            return infos

        return with_retries(once)

    try:
        infos = timeout.run(next(iter(paths)), ask)
    except (OSError, ValueError, SourceError):
        return dict.fromkeys(paths)
    seen = (FileVersion(info.size, info.mtime_ns) if info.is_file else None for info in infos)
    return dict(zip(paths, seen, strict=True))


def probe(uri: str, folders: FolderListings | None = None, timeout: ReadTimeout = DEFAULT_READ_TIMEOUT) -> Probe:
    """Hash a file and read its duration from the header, without decoding it.

    Args:
        folders: listings to find names similar to a missing file; None skips the search.
    """
    try:
        return timeout.run(uri, lambda tick: _look(uri, tick))
    except FileNotFoundError:
        missing = no_such_file(folders.near(uri) if folders else NearbyFiles())
        return Probe(error_kind="missing_file", error=f"{uri}: {missing}")
    except (OSError, ValueError, RestyleError) as error:  # ValueError: an invalid file name
        return Probe(error_kind=source_kind(error), error=f"{uri}: {error}")


def _look(uri: str, tick: Tick) -> Probe:
    filesystem, path = locate(uri)
    return run_on(filesystem, partial(_look_once, filesystem, path, tick))


def _look_once(filesystem: fs.FileSystem, path: str, tick: Tick) -> Probe:
    with open_in_reader(filesystem, path, tick) as file:
        size = file.seek(0, io.SEEK_END)
        refuse_larger(size)
        if size == 0:
            raise AudioError("unreadable_audio", "empty file (0 bytes)")
        file.seek(0)
        digest = hashlib.sha256()
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
        return Probe(digest.hexdigest(), header_seconds(file))
