"""How long planning takes, and how much memory, on a large catalogue of which 99 % is done.

    python -m tests.pipeline.planning.scale FOLDER --rows 1000000

Writes a manifest and results of that many rows into FOLDER (minutes for a million), then plans in a fresh process,
as a second launch of the job does, and prints seconds and peak memory (Linux).
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from acestep.constants import MIN_WORK_S
from pipeline.catalogue.grid import make_settings
from pipeline.catalogue.manifest import read_manifest
from pipeline.catalogue.probe import ProbeCache
from pipeline.planning.items import ItemRules, ModelFacts
from pipeline.planning.plan import Plan, make_plan
from pipeline.planning.plan_file import PlanWriter, read_plan
from pipeline.results.finished_items import finished_items
from pipeline.results.queries import SUMMARY_COLUMNS
from pipeline.results.reader import current_rows
from pipeline.results.writer import ResultWriter, as_table
from pipeline.storage.store import open_store
from pipeline.workflows.summary import summarize

SOURCES = 1000
RULES = ItemRules(make_settings({"seed": 42}, {}), ModelFacts("demo", "f00d", is_turbo=False, dtype="float32"))


def write_catalogue(folder: Path, rows: int, done: float = 0.99) -> None:
    """A manifest of ``rows`` tracks over a thousand short files, and results of a share of them."""
    (folder / "sources").mkdir(parents=True)
    files = [str(folder / "sources" / f"{k}.wav") for k in range(SOURCES)]
    for k, file in enumerate(files):
        soundfile.write(file, np.full((800, 1), k / (2 * SOURCES)), 8000)
    table = {
        "track_id": [f"track_{i:07d}" for i in range(rows)],
        "source": [files[i % SOURCES] for i in range(rows)],
        "caption": [f"heavy metal number {i % 5000}" for i in range(rows)],
    }
    pq.write_table(pa.table(table), folder / "manifest.parquet")
    work = PlanWriter()
    plan(folder, set(), work)
    work.write(open_store(str(folder)))
    writer = ResultWriter(open_store(str(folder)), "results", max_rows=1000, max_seconds=1e9)
    finished = 0
    for tracks in read_plan(open_store(str(folder)), 1000 * MIN_WORK_S, 1):
        some = tracks.slice(0, int(rows * done) - finished).to_pylist()
        writer.add(as_table([_result(track) for track in some]))
        finished += len(some)
    writer.flush()


def _result(track: dict) -> dict:
    (item,) = track["items"]
    ids = {name: item[name] for name in ("item_id", "setting_id", "setting_name", "seed")}
    return ids | {"track_id": track["track_id"], "status": "ok", "duration_s": 5.12, "denoise_s": 1.0}


def plan(folder: Path, finished: set[str], work: PlanWriter) -> Plan:
    """The plan of the job on the folder's manifest."""
    look = ProbeCache(open_store(str(folder)), f"{time.time_ns()}").of
    rows = read_manifest(str(folder / "manifest.parquet"))
    return make_plan(rows, RULES, finished, look, work.add, lambda final: None)


def relaunch(folder: Path, first: bool = False) -> None:
    """What a second launch does on the driver before and after the work itself."""
    store, started = open_store(str(folder)), time.perf_counter()
    work = PlanWriter()
    planned = plan(folder, set() if first else finished_items(store), work)
    work.write(store)
    after_plan = time.perf_counter()
    summary = summarize(current_rows(store, planned.ids, SUMMARY_COLUMNS), 0, 0.0)
    # Not getrusage: there a child starts with its parent's peak.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    peak_gb = int(peak) / 1e6
    print(f"{planned.items} to do, {planned.done} done, {summary.ok} ok in the results")
    planned_s, summed_s = after_plan - started, time.perf_counter() - after_plan
    print(f"plan {planned_s:.1f} s, summary {summed_s:.1f} s, peak {peak_gb:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--relaunch", action="store_true", help="only plan, on a folder that is there")
    parser.add_argument("--first", action="store_true", help="plan as if nothing were done")
    args = parser.parse_args()
    if args.relaunch:
        relaunch(args.folder, args.first)
        return
    write_catalogue(args.folder, args.rows)
    again = [sys.executable, "-m", "tests.pipeline.planning.scale", str(args.folder), "--relaunch"]
    again += ["--first"] * args.first
    sys.exit(subprocess.run(again, check=False).returncode)


if __name__ == "__main__":
    main()
