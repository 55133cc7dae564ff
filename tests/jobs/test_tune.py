"""Tuning on the miniature model, and the preset that a job then takes."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import soundfile

from tests.conftest import melody
from tests.miniature import BASE

ROOT = Path(__file__).parents[2]


def launch(job: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"jobs.{job}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)


@pytest.mark.slow
def test_a_catalogue_is_tuned_and_restyled_as_was_found(tmp_path: Path) -> None:
    rows = []
    for k in range(3):
        soundfile.write(tmp_path / f"t{k}.flac", melody(10.5, seed=k), 48_000)
        rows.append({"track_id": f"t{k}", "source": f"t{k}.flac", "caption": "jazz", "guidance_scale": 12})
    rows.append({"track_id": "gone", "source": "gone.flac", "caption": "jazz"})
    (tmp_path / "songs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    output = tmp_path / "tuned"
    arguments = [
        f"manifest={tmp_path}/songs.jsonl",
        f"output={output}",
        f"model={BASE}",
        "cover.inference_steps=8",
    ]
    arguments += ["tune.strengths=[0.25,0.26,0.5,0.75]", "tune.guidances=[3,9]", "tune.tracks=4", "tune.seeds=2"]
    done = launch("tune", *arguments, "tune.budget=0.5")
    assert done.returncode == 0, done.stderr
    assert "strength 0.26 would give the same steps as another; left out" in done.stdout
    assert "at most 24 covers of the 48 of the full grid" in done.stdout
    results = pq.read_table(output / "results")
    assert len(results.filter(pc.equal(results["status"], "ok"))) <= 24
    assert len(set(results["item_id"].to_pylist())) == len(results)  # no cover is made twice
    assert set(results["guidance_scale"].to_pylist()) <= {3.0, 9.0}  # a row's own value is not what is sought
    assert {*results["track_id"].to_pylist()} <= {"t0", "t1", "t2", "gone"}
    assert (output / "comparison" / "listen.html").exists()
    assert "settled on" in done.stdout
    again = launch("tune", *arguments, "tune.budget=0.5")
    assert again.returncode == 0, again.stderr
    assert len(pq.read_table(output / "results")) == len(results)

    arguments = [
        f"manifest={tmp_path}/songs.jsonl",
        f"output={tmp_path}/out",
        f"model={BASE}",
        "preset=tuned",
    ]
    foreseen = launch("restyle", *arguments, "dry_run=true", f"hydra.searchpath=[file://{output}]")
    assert "3 covers" in foreseen.stdout, foreseen.stdout + foreseen.stderr
