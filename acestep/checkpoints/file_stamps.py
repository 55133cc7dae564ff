"""Detect changes of a model's files without reading them."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from acestep.checkpoints.folders import CheckpointFolders


def file_stamp(folders: CheckpointFolders, *others: Path | None) -> str:
    """Digest of inode, size and times of every file of a checkpoint.

    Equal stamps mean that no file was written or replaced. Different stamps do not imply different weights, see
    ``acestep.checkpoints.checkpoint.fingerprint``.

    Args:
        others: additional files and folders, such as an adapter's; None is ignored.
    """
    paths = [folders.model, folders.autoencoder, folders.text_encoder, *filter(None, others)]
    return hashlib.sha256(repr(sorted(set(_stats(paths)))).encode()).hexdigest()[:16]


def _stats(paths: list[Path]) -> Iterator[tuple[str, int, int, int, int]]:
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file():
                info = os.stat(file)
                yield str(file), info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
