"""Artifacts of a SQLite database that was moved, renamed or copied together with them.

MLflow keeps the absolute place of artifacts in every experiment and run, and finds them there alone.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from pipeline.tracking_runs import TAG_KEY, TAG_OUTPUT
from pipeline.tracking_uri import ARTIFACTS, local_path

LOCK_S = 20.0
_KEYS = (
    "SELECT DISTINCT found.value FROM tags AS found JOIN tags AS home USING (run_uuid) "
    f"WHERE found.key = '{TAG_KEY}' AND home.key = '{TAG_OUTPUT}' AND home.value = ?"
)


def relocate(file: Path, whole: bool) -> list[str]:
    """Have a SQLite database name the artifacts beside it, where it was moved together with them.

    Args:
        whole: the database belongs to a folder that is moved as one. Otherwise artifacts that are still where they
            were, and not beside the database, are left there.

    Returns:
        What the runs are found by of the folders that the database was in before.

    Raises:
        sqlite3.Error: the database cannot be read or written.
    """
    here = file.parent / ARTIFACTS
    before: list[tuple[str]] = []
    with closing(sqlite3.connect(file, timeout=LOCK_S)) as database, database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"experiments", "runs", "tags"} <= tables:
            return []
        known = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for (old,) in known:
            if not old or local_path(old).name != ARTIFACTS or old == here.as_uri():
                continue
            if whole or here.exists() or not local_path(old).exists():
                _rename(database, old, here.as_uri())
                before += database.execute(_KEYS, (str(local_path(old).parent),)).fetchall()
    return [key for (key,) in before]


def _rename(database: sqlite3.Connection, old: str, new: str) -> None:
    database.execute("UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (new, old))
    database.execute(
        "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, length(?) + 1) "
        "WHERE substr(artifact_uri, 1, length(?) + 1) = ? || '/'",
        (new, old, old, old),
    )
