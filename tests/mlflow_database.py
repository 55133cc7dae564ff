"""SQLite databases with MLflow's tables in them: creating the tables takes seconds, copying a file does not."""

import shutil
import tempfile
from functools import lru_cache
from pathlib import Path


@lru_cache
def _template() -> "tempfile.TemporaryDirectory[str]":
    """A folder with a database, which goes with the process."""
    from mlflow import MlflowClient

    folder = tempfile.TemporaryDirectory(prefix="restyle-mlflow-")
    MlflowClient(f"sqlite:///{folder.name}/empty.db").search_experiments()
    return folder


def create_database(file: Path) -> None:
    """Put a database without any experiment of ours there, and the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(f"{_template().name}/empty.db", file)
