"""Hundreds of damaged, lying and foreign files: each ends in a cover or in a reason, and nothing else happens."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests import miniature
from tests.jobs.fuzz_audio import Case, write_corpus

ROOT = Path(__file__).parents[2]
FILES = 500


def try_each(folder: Path, cases: list[Case]) -> dict[str, dict]:
    """What each file ends in, in a process of its own: a crash or a hang would end that process alone."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.jobs.fuzz_audio", str(folder)],
        input="\0".join(case.name for case in cases),
        cwd=ROOT,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{lines[-1]} ended the process: {done.stderr[-2000:]}"
    return {named["name"]: outcome for named, outcome in zip(lines[::2], lines[1::2], strict=True)}


def test_every_file_is_read_or_refused_within_bounds(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    corpus = write_corpus(folder, 240)
    # Warm-up, then all that must end in one certain way, then some of each kind of damage.
    certain = [case for case in corpus if case.ends != "any"]
    damaged = [case for case in corpus if case.ends == "any"]
    cases = [*certain[:2], *certain[2::3], *damaged[::5]]
    outcomes = try_each(folder, cases)
    assert len(outcomes) == len(cases) > 50
    for case in cases:
        outcome = outcomes[case.name]
        assert not outcome["said"].startswith("wrong"), (case, outcome)
        if case.ends != "any":
            assert bool(outcome["said"]) == (case.ends == "failed"), (case, outcome)
        assert outcome["seconds"] < 5, (case, outcome)
    peaks = [outcomes[case.name]["peak_mb"] for case in cases]
    assert peaks[-1] - peaks[0] < 400


def snapshot(folder: Path, but: Path) -> dict[str, tuple[int, int, int]]:
    """Kind, size and time of all that lies in ``folder``, leaving out ``but``."""
    files = (path for path in folder.rglob("*") if path != but and but not in path.parents)
    stats = {str(path.relative_to(folder)): path.lstat() for path in files}
    return {name: (stat.st_mode, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def worker_memory_mb(job: int) -> float | None:
    """Private memory of the largest actor among the processes that ``job`` started."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:  # it has ended
            continue
    sizes = []
    for process in parents:
        ancestor: int | None = process
        while ancestor and ancestor != job:
            ancestor = parents.get(ancestor)
        try:
            folder = Path(f"/proc/{process}")
            if ancestor == job and b"Restyle" in (folder / "cmdline").read_bytes():
                pages, shared = (int(word) for word in (folder / "statm").read_text().split()[1:3])
                sizes.append((pages - shared) * os.sysconf("SC_PAGE_SIZE") / 2**20)
        except OSError:
            continue
    return max(sizes, default=None)


@pytest.mark.slow
def test_a_catalogue_of_nothing_but_trouble(tmp_path: Path) -> None:
    sources, output = tmp_path / "sources", tmp_path / "out"
    cases = write_corpus(sources, FILES)
    rows = [
        {"track_id": f"t{number:03d}", "source": f"sources/{case.name}", "caption": "jazz"}
        for number, case in enumerate(cases)
    ]
    manifest = tmp_path / "tracks.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    before = snapshot(tmp_path, output)
    command = [sys.executable, "-m", "jobs.restyle", f"manifest={manifest}", f"output={output}"]
    samples = []
    with (tmp_path / "out.log").open("w") as log:
        before["out.log"] = (0, 0, 0)
        with subprocess.Popen(
            [*command, f"model={miniature.BASE}", "cover.inference_steps=1"], cwd=ROOT, stdout=log, stderr=log
        ) as job:
            deadline = time.monotonic() + 900
            while job.poll() is None and time.monotonic() < deadline:
                if (size := worker_memory_mb(job.pid)) is not None:
                    samples.append(size)
                time.sleep(0.25)
            if job.poll() is None:
                job.kill()
    said = (tmp_path / "out.log").read_text()
    assert job.returncode == 3, said[-4000:]
    assert "Traceback" not in said

    made = [*pq.read_table(output / "results").to_pylist(), *pq.read_table(output / "rejected").to_pylist()]
    assert sorted(row["track_id"] for row in made) == [row["track_id"] for row in rows]
    by_track = {row["track_id"]: row for row in made}
    table: Counter[tuple[str, str]] = Counter()
    for row, case in zip(rows, cases, strict=True):
        end = by_track[row["track_id"]]
        table[case.kind, end["error_kind"] or "ok"] += 1
        assert end["status"] in ("ok", "failed", "rejected")
        if end["status"] == "ok":
            assert (output / end["audio_path"]).stat().st_size == end["audio_bytes"] > 0
        else:
            assert end["error_kind"], (case, end)
            assert end["error_kind"] not in ("internal_error", "worker_died", "storage_error"), (case, end)
            assert end["error_message"], (case, end)
            assert "Traceback" not in end["error_message"]
        if case.ends != "any":
            assert (end["status"] == "ok") == (case.ends == "ok"), (case, end)

    after = snapshot(tmp_path, output)
    after["out.log"] = before["out.log"]
    assert after == before

    # From the second quarter on the worker is warm: what it holds then it keeps, and no more.
    quarter = len(samples) // 4
    warm, late = statistics.median(samples[quarter : 2 * quarter]), statistics.median(samples[3 * quarter :])
    quarters = [round(statistics.median(samples[k * quarter : (k + 1) * quarter])) for k in range(4)]
    print(f"\nworker memory by quarter, MB: {quarters} ({len(samples)} samples)")
    for (kind, outcome), count in sorted(table.items()):
        print(f"{kind:16} {outcome:20} {count}")
    assert quarter > 10
    assert late < 1.15 * warm + 50, quarters
