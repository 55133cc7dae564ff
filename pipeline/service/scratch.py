"""A service's own folder of unfinished files: what is sent is looked at here before it is kept."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from acestep.errors import RequestError
from pipeline.storage.store import Store

SCRATCH = "scratch"


def scratch_folder(store: Store) -> Path:
    """Where a service with this output puts unfinished files: within it, where a rename moves them to their place.

    Beside an object store it is a folder of this machine, which nobody else may write.

    Raises:
        RequestError: somebody else made that folder.
    """
    if store.is_local:
        folder = Path(store.root) / SCRATCH
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    name = hashlib.sha256(store.root.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"restyle-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise RequestError(f"{folder} is somebody else's; set TMPDIR to a folder of your own")
    return folder


def emptied_scratch_folder(store: Store) -> Path:
    """The same folder, without what a service that was killed left in it."""
    folder = scratch_folder(store)
    shutil.rmtree(folder, ignore_errors=True)
    return scratch_folder(store)
