"""The service's scratch folder: uploads are checked here before they are kept."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from acestep.errors import RequestError
from pipeline.storage.store import Store

SCRATCH = "scratch"


def scratch_folder(store: Store) -> Path:
    """The scratch folder of an output folder: inside of it, so that files are moved by rename.

    For an object store it is a private temporary folder of this machine.

    Raises:
        RequestError: the temporary folder belongs to another user.
    """
    if store.is_local:
        folder = Path(store.root) / SCRATCH
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    name = hashlib.sha256(store.root.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"restyle-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        remedy = "set TMPDIR to a folder of your own"
        raise RequestError("invalid_value", f"{folder} is somebody else's", remedy)
    return folder


def emptied_scratch_folder(store: Store) -> Path:
    """The scratch folder, emptied of files of a killed service."""
    folder = scratch_folder(store)
    shutil.rmtree(folder, ignore_errors=True)
    return scratch_folder(store)
