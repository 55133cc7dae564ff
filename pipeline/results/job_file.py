"""The job file of an output folder: what it says, and what the folder is called and tracked by."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

from acestep.errors import RestyleError
from acestep.parameters.values import from_json
from acestep.redaction import redacted
from pipeline.storage.store import Store, open_store

log = logging.getLogger(__name__)
JOB_FILE = "job.json"
_SHAPE = {
    "catalogue": str,
    "parameters": dict,
    "labels": dict,
    "folder": str,
    "tracking_key": str,
    "job": {"manifest": str, "tracking": {"experiment": str}},
}


def read_record(output: Store, warn: Callable[[str], None] = log.warning) -> dict[str, Any]:
    """What the folder's own job wrote down about itself; nothing where there is no job file, or a damaged one.

    Args:
        warn: is told of a damaged one.
    """
    empty: dict[str, Any] = {"catalogue": None, "parameters": {}, "labels": {}, "job": {}}
    try:
        found = from_json(output.read(JOB_FILE))
        _check_shape(found)
    except FileNotFoundError:
        return empty
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and not output.is_local:
            raise
        warn(
            f"{output.path(JOB_FILE)} is damaged ({error}) and not used; the next jobs.restyle or jobs.measure "
            "pairs= on this folder writes it anew"
        )
        return empty
    return empty | {name: value for name, value in found.items() if value is not None}


def _check_shape(values: Any, shape: Mapping[str, Any] = _SHAPE) -> None:
    """Raises ValueError where a job file does not hold what its readers count on; null stands for nothing."""
    if not isinstance(values, dict):
        raise ValueError(f"it holds {values!r:.40} in place of a mapping")
    for name, kind in shape.items():
        if values.get(name) is None:
            continue
        if isinstance(kind, dict):
            _check_shape(values[name], kind)
        elif not isinstance(values[name], kind):
            raise ValueError(f"{name} may not be {values[name]!r:.40}")
    if shape is _SHAPE and not all(isinstance(text, str) for text in (values.get("labels") or {}).values()):
        raise ValueError("a label is no text")


def folder_of(output: Store, uri: str) -> str:
    """How an output folder is named in what is written about it: by an absolute path, or a URI."""
    return redacted(uri) if "://" in uri else output.root


def tracking_key(output: Store, folder: str) -> str:
    """What the runs of an output folder are found by: what its ``job.json`` says, wherever the folder was moved.

    A copy, whose original is still there, goes by its place, as does a folder whose file says nothing.
    """
    record = read_record(output, _say_nothing)
    key, home = record.get("tracking_key"), record.get("folder")
    if key and home and (home == folder or _key_at(home) != key):
        return str(key)
    return hashlib.sha256(folder.encode()).hexdigest()[:16]


def _key_at(folder: str) -> str | None:
    try:
        found: str | None = read_record(open_store(folder), _say_nothing).get("tracking_key")
    except (RestyleError, OSError):
        return None
    return found


def _say_nothing(message: str) -> None:
    """For a look at a job file on which its launch has been told already."""
