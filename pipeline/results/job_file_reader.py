"""The job file of an output folder, and the key of the folder's tracking runs."""

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
    """The content of a folder's job file; empty defaults where it is missing or damaged.

    Args:
        warn: called with a message when the file is damaged.
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
    """Raises ValueError where a job file has another shape than ``shape``; null counts as absent."""
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
    """Name of an output folder in records: an absolute path, or a URI without secrets."""
    return redacted(uri) if "://" in uri else output.root


def tracking_key(output: Store, folder: str) -> str:
    """The key that identifies a folder's tracking runs: ``tracking_key`` of ``job.json``, even after a move.

    A copy beside its original, and a folder without a key, use a hash of their path.
    """
    record = read_record(output, _ignore)
    key, home = record.get("tracking_key"), record.get("folder")
    if key and home and (home == folder or _key_at(home) != key):
        return str(key)
    return hashlib.sha256(folder.encode()).hexdigest()[:16]


def _key_at(folder: str) -> str | None:
    try:
        found: str | None = read_record(open_store(folder), _ignore).get("tracking_key")
    except (RestyleError, OSError):
        return None
    return found


def _ignore(message: str) -> None:
    """For callers whose launch has already reported the damaged file."""
