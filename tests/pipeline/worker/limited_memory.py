"""A worker whose process may take only so much more memory, with tracks of which one does not fit.

    python -m tests.pipeline.worker.limited_memory FOLDER MEGABYTES LONG_S

Prints the status and kind of each track's rows as JSON. The long track is in the worker's hands together with two
short ones.
"""

import json
import platform
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import soundfile

from pipeline.catalogue.grid import make_settings
from pipeline.catalogue.manifest import read_manifest
from pipeline.catalogue.probe import probe_all
from pipeline.metrics.spec import MetricsSpec
from pipeline.planning.items import ItemRules, ModelFacts
from pipeline.planning.plan import make_plan
from pipeline.storage.store import open_store
from pipeline.worker.restyle_worker import RestyleWorker
from tests import miniature
from tests.conftest import tone
from tests.pipeline.service.conftest import worker_at

TURBO = {"inference_steps": 1, "seed": 1}


def plan_of(folder: Path, seconds: dict[str, float]) -> list[dict[str, Any]]:
    """Planned tracks of so many seconds, longest first."""
    rows = []
    for name, length in seconds.items():
        soundfile.write(folder / f"{name}.flac", tone(length), 48_000)
        rows.append({"track_id": name, "source": f"{name}.flac", "caption": name})
    manifest = folder / "tracks.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    rules = ItemRules(make_settings(TURBO, {}), ModelFacts("demo_turbo", "f00d", is_turbo=True, dtype="float32"))
    work: list[Any] = []
    make_plan(read_manifest(str(manifest)), rules, set(), probe_all, work.append, lambda final: None)
    return [track for table in work for track in table.to_pylist()]


def main(folder: Path, megabytes: int, long_s: float) -> None:
    tracks = plan_of(folder, {"long": long_s, **{f"short{k}": 3.0 for k in range(4)}})
    output = open_store(str(folder / "out"))
    spec = worker_at(
        output,
        model=miniature.TURBO,
        node=platform.node(),
        max_seconds=600.0,
        threads=1,
        metrics=MetricsSpec(enabled=False),
    )
    worker = RestyleWorker(spec)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda track: list(worker.restyle(track)), tracks[-1:]))  # whatever is loaded lazily
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + megabytes * 1_000_000,) * 2)
        rows = [row for made in threads.map(lambda track: list(worker.restyle(track)), tracks) for row in made]
    found = {row["track_id"]: [row["status"], row.get("error_kind")] for row in rows}
    print(json.dumps({"tracks": found, "markers": output.files("attempts/test", "")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
