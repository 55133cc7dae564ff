"""A first look at the sources: what they are, by content, and how long; remembered in the output folder."""

import hashlib
import io
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from acestep.constants import MAX_FILE_BYTES, NUMERICS_VERSION
from acestep.decoding import header_seconds
from acestep.errors import RestyleError
from pipeline.failures import source_kind
from pipeline.parts import PartError, PartFormat, part_names, read_part, write_part
from pipeline.spelling import Folders, Nearby, no_such_file
from pipeline.storage import Store, locate, patiently

PROBES = "probes"
THREADS = 16
READ_BYTES = 1 << 20
AT_ONCE_BYTES = 64 << 20
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Probe:
    """What one look at a file tells: a digest of its bytes, its length, or why it cannot be used."""

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
        ("numerics_version", pa.int32()),  # what read the length
    ]
)


PROBED = PartFormat(SCHEMA, ("uri", "size", "modified_ns", "digest"))


class Probes:
    """Probes of files, asked for only where a file is new or has changed since an earlier launch looked at it."""

    def __init__(self, store: Store, launch: str):
        self.store, self.launch = store, launch
        self.folders = Folders()
        known = pa.concat_tables([SCHEMA.empty_table(), *_remembered(store)])
        # The newest look at a file comes last and is found first.
        self.known = known.filter(pc.equal(known["numerics_version"], NUMERICS_VERSION)).combine_chunks()[::-1]
        self.parts = count()

    def of(self, uris: Sequence[str]) -> dict[str, Probe]:
        """A probe of each file."""
        unique = list(dict.fromkeys(uris))
        infos = _file_infos(unique)
        found: dict[str, Probe] = {}
        places = pc.index_in(pa.array(unique, pa.string()), value_set=self.known["uri"])
        remembered = self.known.take(places.drop_null()).to_pylist()
        for row in remembered:
            info = infos[row["uri"]]
            if info is not None and (info.size, info.mtime_ns) == (row["size"], row["modified_ns"]):
                found[row["uri"]] = Probe(row["digest"], row["duration_s"], row["error_kind"], row["error"])
        fresh = [uri for uri in unique if uri not in found]
        if fresh:
            with ThreadPoolExecutor(THREADS) as pool:
                looked = dict(zip(fresh, pool.map(partial(probe, folders=self.folders), fresh), strict=True))
            found |= looked
            self._remember({uri: p for uri, p in looked.items() if infos[uri] is not None and p.digest}, infos)
        return found

    def _remember(self, looked: dict[str, Probe], infos: dict[str, fs.FileInfo | None]) -> None:
        rows = [
            {"uri": uri, "size": info.size, "modified_ns": info.mtime_ns, **asdict(probe)}
            | {"numerics_version": NUMERICS_VERSION}
            for uri, probe in looked.items()
            if (info := infos[uri]) is not None
        ]
        if rows:
            table = pa.Table.from_pylist(rows, schema=SCHEMA)
            write_part(self.store, PROBES, self.launch, next(self.parts), table)


def _remembered(store: Store) -> Iterator[pa.Table]:
    """The parts of earlier launches; what is damaged goes, since all of it can be found out again."""
    for name in part_names(store, PROBES):
        try:
            yield read_part(store, name, PROBED)
        except PartError as error:
            if error.is_damaged:
                log.warning("%s was damaged (%s) and is deleted; its sources are read again", name, error.reason)
                store.delete(name)
            else:
                log.warning("%s; it is left out", error)


def _file_infos(uris: Sequence[str]) -> dict[str, fs.FileInfo | None]:
    """Size and time of each file, asked of each filesystem in one call; None where there is no file."""
    infos: dict[str, fs.FileInfo | None] = {}
    groups: dict[int, tuple[fs.FileSystem, list[tuple[str, str]]]] = {}
    for uri in uris:
        try:
            filesystem, path = locate(uri)
        except RestyleError:
            infos[uri] = None
            continue
        groups.setdefault(id(filesystem), (filesystem, []))[1].append((uri, path))
    for filesystem, pairs in groups.values():
        answers = _answers(filesystem, [path for _, path in pairs])
        for (uri, _), info in zip(pairs, answers, strict=True):
            infos[uri] = info if info is not None and info.is_file else None
    return infos


def _answers(filesystem: fs.FileSystem, paths: list[str]) -> list[fs.FileInfo | None]:
    try:
        local = isinstance(filesystem, fs.LocalFileSystem)
        return filesystem.get_file_info(paths) if local else patiently(lambda: filesystem.get_file_info(paths))
    except (OSError, ValueError):
        if len(paths) == 1 or not isinstance(filesystem, fs.LocalFileSystem):
            return [None] * len(paths)
        # One name that no file can have (too long, with a zero in it) spoils the answers of all.
        return [answer for path in paths for answer in _answers(filesystem, [path])]


def probe(uri: str, folders: Folders | None = None) -> Probe:
    """Digest a file's bytes and read its length from the header, without decoding it.

    Args:
        folders: where a name like that of a missing file is looked for; None looks nowhere.
    """
    try:
        filesystem, path = locate(uri)
        if isinstance(filesystem, fs.LocalFileSystem) and not stat.S_ISREG(os.stat(path).st_mode):
            # Opening a pipe would wait for ever for someone to write into it.
            what = "not a regular file but a folder, a pipe or a device; name an audio file"
            return Probe(error_kind="unreadable_file", error=f"{uri}: {what}")
        look = partial(_look, filesystem, path, uri)
        return look() if isinstance(filesystem, fs.LocalFileSystem) else patiently(look)
    except FileNotFoundError:
        missing = no_such_file(folders.near(uri) if folders else Nearby())
        return Probe(error_kind="missing_file", error=f"{uri}: {missing}")
    except (OSError, ValueError, RestyleError) as error:  # ValueError: a name that no file can have
        return Probe(error_kind=source_kind(error), error=f"{uri}: {error}")


def _look(filesystem: fs.FileSystem, path: str, uri: str) -> Probe:
    with opened(filesystem, path) as file:
        size = file.seek(0, io.SEEK_END)
        if size > MAX_FILE_BYTES:
            too_large = f"{size} bytes are more than the {MAX_FILE_BYTES} of any usable track; cut or convert it"
            return Probe(error_kind="unreadable_audio", error=f"{uri}: {too_large}")
        if size == 0:
            return Probe(error_kind="unreadable_audio", error=f"{uri}: empty file (0 bytes)")
        file.seek(0)
        digest = hashlib.sha256()
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
        return Probe(digest.hexdigest(), header_seconds(file))


def opened(filesystem: fs.FileSystem, path: str) -> BinaryIO:
    """A file to read here and there: of a remote one every read is a request, so all of it comes at once."""
    file = filesystem.open_input_file(path)
    if isinstance(filesystem, fs.LocalFileSystem) or file.size() > AT_ONCE_BYTES:
        return io.BufferedReader(file, READ_BYTES)
    with file:
        return io.BytesIO(file.read())
