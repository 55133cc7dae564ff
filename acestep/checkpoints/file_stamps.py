"""Whether the files of a model are the ones they were, told without reading them."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from acestep.checkpoints.folders import CheckpointFolders


def file_stamp(folders: CheckpointFolders, *others: Path | None) -> str:
    """A digest of the inode, size and times of every file of a checkpoint.

    Where two stamps are equal, no file was written or replaced between them. Where they differ, the weights may
    still be the same: ``acestep.checkpoints.checkpoint.fingerprint`` tells.

    Args:
        others: more files and folders, such as an adapter's; None is left out.
    """
    paths = [folders.model, folders.autoencoder, folders.text_encoder, *filter(None, others)]
    found = sorted(set(_stats(paths)))
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def _stats(paths: list[Path]) -> Iterator[tuple[str, int, int, int, int]]:
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file():
                info = os.stat(file)
                yield str(file), info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
