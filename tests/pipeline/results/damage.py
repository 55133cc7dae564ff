"""Ways to damage an output folder, and folders to damage."""

import os
import random
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from acestep.sampling.setting import CoverSetting
from pipeline.results.reader import RESULTS
from pipeline.results.writer import ResultWriter, as_table
from pipeline.storage.parquet_parts import part_names
from pipeline.storage.store import open_store
from pipeline.tracking.spec import TrackingSpec
from pipeline.workflows.specs import RestyleJob
from tests import miniature
from tests.conftest import tone


class Told:
    """Takes what a job tells."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.checks: list[Any] = []

    def planned(self, *told: object) -> None: ...

    def advanced(self, progress: object) -> None: ...

    def looked(self, done: int, total: int) -> None: ...

    def checked(self, check: Any) -> None:
        self.checks.append(check)

    def warned(self, message: str) -> None:
        self.warnings.append(message)


def rows_of(*items: str) -> pa.Table:
    row = {"setting_id": "s", "track_id": "t", "status": "ok", "unmeasured": ["all: silent"], "audio_path": "x"}
    return as_table([row | {"item_id": item, "caption": f"jazz {item}"} for item in items])


def written(folder: Path, *parts: str, name: str = RESULTS) -> list[Path]:
    """Parts of one row each; their paths."""
    store = open_store(str(folder))
    for part in parts:
        writer = ResultWriter(store, name)
        writer.add(rows_of(part))
        writer.flush()
    return [folder / name for name in part_names(store, name)]


def job_on(folder: Path, **more: Any) -> RestyleJob:
    cover = asdict(CoverSetting()) | {"seed": 1, "inference_steps": 2}
    if not (folder / "m.csv").exists():
        soundfile.write(folder / "a.wav", tone(5.1), 48_000)
        (folder / "m.csv").write_text("track_id,source,caption\na,a.wav,jazz\n")
    manifest, output = str(folder / "m.csv"), str(folder / "out")
    return RestyleJob(manifest, output, cover, model=miniature.BASE, tracking=TrackingSpec(enabled=False), **more)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(5000))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def swap(path: Path) -> None:
    shutil.copyfile(path.parents[1] / "other.parquet", path)


def footer(path: Path) -> None:
    """A column's name is another one: rows can be read, and that column is gone."""
    path.write_bytes(path.read_bytes().replace(b"audio_path", b"audio_patg"))


def other_columns(path: Path) -> None:
    pq.write_table(pa.table({"city": ["Bern"], "people": [134_000]}), path)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def broken_link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("nowhere.parquet")


DAMAGE = [cut, empty, garbage, flip, swap, footer]

FOREIGN = [other_columns, folder, pipe, broken_link]
