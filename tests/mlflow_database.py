"""SQLite databases with MLflow's tables in them: creating the tables takes seconds, copying a file does not."""

import shutil
import tempfile
from functools import lru_cache
from pathlib import Path


@lru_cache
def _template() -> Path:
    from mlflow import MlflowClient

    file = Path(tempfile.mkdtemp(prefix="restyle-mlflow-")) / "empty.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


def create_database(file: Path) -> None:
    """Put a database without any experiment of ours there, and the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(_template(), file)
