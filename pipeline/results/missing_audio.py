"""Lost covers: rows that say ok, and whose audio file is gone, truncated or empty."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from pipeline.results.table import RESULTS, each_part, keep_rows
from pipeline.storage.output_store import OutputError
from pipeline.storage.store import Store

AUDIO = "audio"
THREADS = 16
AT_ONCE = 64  # files that a thread looks at in a row
MISSING = -1
COLUMNS = ("item_id", "status", "audio_path", "audio_bytes")
Sizes = Callable[[Sequence[str]], list[int]]


def lost_covers(store: Store) -> set[str]:
    """Ids of items whose newest ok row names a file of this folder that is not there, or not in its length.

    An object store is listed once. A local folder is asked for each file by its name, which takes a seventh of the
    time of a listing with sizes, and sees what other machines have just written to a network folder.

    Raises:
        OutputError, OSError: the folder cannot be looked at.
    """
    lost: set[str] = set()
    sizes_of: Sizes | None = None
    with ThreadPoolExecutor(THREADS) as pool:
        for _, rows in each_part(store, RESULTS, COLUMNS):
            own = pc.and_(pc.equal(rows["status"], "ok"), pc.starts_with(rows["audio_path"], f"{AUDIO}/"))
            rows = rows.filter(pc.fill_null(own, False))
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
    """Names of audio files of this folder that do not have the digest in their row, by reading all of them.

    What is gone is left to ``lost_covers``.
    """
    altered: set[str] = set()
    with ThreadPoolExecutor(THREADS) as pool:
        for _, rows in each_part(store, RESULTS, ("status", "audio_path", "audio_sha256")):
            own = pc.and_(pc.equal(rows["status"], "ok"), pc.starts_with(rows["audio_path"], f"{AUDIO}/"))
            rows = rows.filter(pc.and_(pc.fill_null(own, False), pc.is_valid(rows["audio_sha256"])))
            names = rows["audio_path"].to_pylist()
            found = pool.map(lambda name: _digest(store, name), names)
            for name, digest, expected in zip(names, found, rows["audio_sha256"].to_pylist(), strict=True):
                (altered.discard if digest in (None, expected) else altered.add)(name)
    return sorted(altered)


def drop_rows(store: Store, items: set[str]) -> None:
    """Take the ok rows of items out of the results, so that none is left without its file."""
    if not items:
        return
    wanted = pa.array(items, pa.string())
    for name, rows in each_part(store, RESULTS, ("item_id", "status")):
        gone = pc.and_(pc.is_in(rows["item_id"], value_set=wanted), pc.equal(rows["status"], "ok"))
        if pc.any(gone).as_py():
            keep_rows(store, name, pc.invert(gone))


def _sizes(store: Store) -> Sizes:
    """What tells the sizes of files by their names, ``MISSING`` where there is none."""
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
