"""Finds covers whose audio file is gone, truncated or altered."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from pipeline.results.reader import RESULTS, each_part, keep_rows
from pipeline.storage.output_store import OutputError
from pipeline.storage.store import Store

AUDIO = "audio"
THREADS = 16
AT_ONCE = 64  # files per call of a thread
MISSING = -1
Sizes = Callable[[Sequence[str]], list[int]]


def covers_without_audio(store: Store) -> set[str]:
    """Ids of items whose newest ok row names a file of this folder that is missing or of another size.

    An object store is listed once. In a local folder each file is looked up by name, which takes a seventh of the
    time of a listing with sizes, and sees files that other machines have just written to a network folder.

    Raises:
        OutputError, OSError: the folder cannot be read.
    """
    lost: set[str] = set()
    sizes_of: Sizes | None = None
    with ThreadPoolExecutor(THREADS) as pool:
        for rows in _own_covers(store, "item_id", "audio_bytes"):
            if not len(rows):
                continue
            sizes_of = sizes_of or _sizes(store)
            paths = rows["audio_path"].to_pylist()
            groups = [paths[start : start + AT_ONCE] for start in range(0, len(paths), AT_ONCE)]
            sizes = [size for found in pool.map(sizes_of, groups) for size in found]
            for item_id, expected, size in zip(
                rows["item_id"].to_pylist(), rows["audio_bytes"].to_pylist(), sizes, strict=True
            ):
                whole = size > 0 if expected is None else size == expected
                (lost.discard if whole else lost.add)(item_id)
    return lost


def altered_covers(store: Store) -> list[str]:
    """Paths of existing audio files of this folder whose SHA-256 differs from their row's; reads every file."""
    altered: set[str] = set()
    with ThreadPoolExecutor(THREADS) as pool:
        for rows in _own_covers(store, "audio_sha256"):
            rows = rows.filter(pc.is_valid(rows["audio_sha256"]))
            names = rows["audio_path"].to_pylist()
            found = pool.map(lambda name: _digest(store, name), names)
            for name, digest, expected in zip(names, found, rows["audio_sha256"].to_pylist(), strict=True):
                (altered.discard if digest in (None, expected) else altered.add)(name)
    return sorted(altered)


def _own_covers(store: Store, *columns: str) -> Iterator[pa.Table]:
    """The ok rows of each part whose audio file lies in this folder: ``audio_path`` and ``columns``."""
    for _, rows in each_part(store, RESULTS, ("status", "audio_path", *columns)):
        own = pc.and_(pc.equal(rows["status"], "ok"), pc.starts_with(rows["audio_path"], f"{AUDIO}/"))
        yield rows.filter(pc.fill_null(own, False))


def drop_rows(store: Store, items: set[str]) -> None:
    """Remove the ok rows of items from the results, since their files are lost."""
    if not items:
        return
    ids = pa.array(items, pa.string())
    for name, rows in each_part(store, RESULTS, ("item_id", "status")):
        gone = pc.and_(pc.is_in(rows["item_id"], value_set=ids), pc.equal(rows["status"], "ok"))
        if pc.any(gone).as_py():
            keep_rows(store, name, pc.invert(gone))


def _sizes(store: Store) -> Sizes:
    """A function from paths to file sizes in bytes; ``MISSING`` for a missing file."""
    if store.is_local:
        folder = store.path(AUDIO)
        if os.path.islink(folder) and not os.path.exists(folder):
            raise OutputError(
                f"output {store.root}: {AUDIO} is a link to {os.readlink(folder)}, which is not there"
            )
        if _is_empty(folder):
            raise OutputError(
                f"output {store.root}: {AUDIO} is empty, and rows name covers in it; mount the disk that has "
                "them, or remove the empty folder to have them made again"
            )
        return lambda names: store.retrying(lambda: [_size(store.path(name)) for name in names])
    selector = fs.FileSelector(store.path(AUDIO), allow_not_found=True, recursive=True)
    found = store.retrying(lambda: store.filesystem.get_file_info(selector))
    listed = {info.path: info.size for info in found}
    return lambda names: [listed.get(store.path(name), MISSING) for name in names]


def _is_empty(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return False


def _digest(store: Store, name: str) -> str | None:
    try:
        return hashlib.sha256(store.read(name)).hexdigest()
    except FileNotFoundError:
        return None


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
