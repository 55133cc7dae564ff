"""Relocates the artifacts of a SQLite database that was moved or copied together with them.

MLflow stores absolute artifact paths in every experiment and run.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.tracking.runs import TAG_KEY, TAG_OUTPUT
from pipeline.tracking.uri import ARTIFACTS, local_path

LOCK_S = 20.0
_RUNS = (
    f"SELECT run_uuid, EXISTS (SELECT 1 FROM tags WHERE tags.run_uuid = runs.run_uuid AND key = '{TAG_OUTPUT}') "
    "FROM runs WHERE experiment_id = ?"
)
_KEYS = (
    "SELECT DISTINCT found.value FROM tags AS found JOIN tags AS home USING (run_uuid) "
    f"WHERE found.key = '{TAG_KEY}' AND home.key = '{TAG_OUTPUT}' AND home.value = ?"
)


def relocate(file: Path, whole: bool) -> list[str]:
    """Update the artifact paths in a SQLite database that was moved together with its artifacts.

    Only experiments with runs of this package change, and only those with artifacts in a local folder.

    Args:
        whole: the database belongs to a folder that moves as a whole. Otherwise an experiment changes only if its
            old artifact folder is gone and artifacts of one of its runs are beside the database.

    Returns:
        Tracking keys of the output folders that the database was in before.

    Raises:
        sqlite3.Error: the database cannot be read or written.
    """
    here = file.parent / ARTIFACTS
    before: list[tuple[str]] = []
    with closing(sqlite3.connect(file, timeout=LOCK_S)) as database, database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"experiments", "runs", "tags"} <= tables:
            return []
        for experiment, old in database.execute(
            "SELECT experiment_id, artifact_location FROM experiments"
        ).fetchall():
            place = _local_folder(old or "")
            if place is None or place.name != ARTIFACTS or old == here.as_uri():
                continue
            runs = dict(database.execute(_RUNS, (experiment,)).fetchall())  # whether each is ours
            ours = [run for run, is_ours in runs.items() if is_ours]
            moved = not place.exists() and any((here / run).exists() for run in ours)
            if moved or (whole and (ours or not runs)):
                _rename(database, experiment, old, here.as_uri())
                before += database.execute(_KEYS, (str(place.parent),)).fetchall()
    return list(dict.fromkeys(key for (key,) in before))


def _local_folder(location: str) -> Path | None:
    """The absolute path of an artifact location; None if it is remote or relative."""
    parts = urlsplit(location)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        return None
    place = local_path(location)
    return place if place.is_absolute() else None


def _rename(database: sqlite3.Connection, experiment: int, old: str, new: str) -> None:
    database.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, experiment))
    database.execute(
        "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, length(?) + 1) "
        "WHERE experiment_id = ? AND substr(artifact_uri, 1, length(?) + 1) = ? || '/'",
        (new, old, experiment, old, old),
    )
