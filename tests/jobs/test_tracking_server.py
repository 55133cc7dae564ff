"""A real MLflow server that is killed while a job runs: every result is there, and the next launch tracks them."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import soundfile

from tests.conftest import tone
from tests.miniature import BASE
from tests.mlflow_server import Server

ROOT = Path(__file__).parents[2]
TRACKS = 6


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path)
    found.start()
    yield found
    found.kill()


def launch(folder: Path, server: Server) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs.restyle", f"manifest={folder}/tracks.jsonl", f"output={folder}/out"]
    command += [f"model={BASE}", "cover.inference_steps=8", "grid.audio_cover_strength=[0.3,0.6]"]
    command += [f"tracking.uri={server.uri}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_server_loses_nothing_and_is_brought_up_to_date(tmp_path: Path, server: Server) -> None:
    from mlflow import MlflowClient

    for k in range(TRACKS):
        soundfile.write(tmp_path / f"t{k}.wav", tone(8.0, pitch_hz=200 + 20 * k), 48_000)
    rows = [{"track_id": f"t{k}", "source": f"t{k}.wav", "caption": "jazz"} for k in range(TRACKS)]
    rows.append({"track_id": "lost", "source": "lost.wav", "caption": "jazz"})
    (tmp_path / "tracks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    output = tmp_path / "out"

    with launch(tmp_path, server) as job:
        deadline = time.monotonic() + 300
        while not list(output.glob("audio/*/*.flac")) and time.monotonic() < deadline:
            time.sleep(0.05)
        made = len(list(output.glob("audio/*/*.flac")))
        server.kill()
        said, errors = job.communicate(timeout=600)
    assert 0 < made < 2 * TRACKS
    assert job.returncode == 3, errors
    assert "Traceback" not in errors
    assert "tracking is incomplete" in " ".join(said.split())
    results = pq.read_table(output / "results")
    assert results["status"].to_pylist().count("ok") == 2 * TRACKS
    assert len(list(output.glob("audio/*/*.flac"))) == 2 * TRACKS

    server.start()
    client = MlflowClient(server.uri)
    (experiment,) = [found for found in client.search_experiments() if found.name == "tracks"]
    before = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in before} == {"RUNNING"}  # as the killed server last knew them
    with launch(tmp_path, server) as job:
        said, errors = job.communicate(timeout=600)
    assert job.returncode == 3, errors
    assert "warning" not in said
    assert f"0 covers of 0 tracks ({2 * TRACKS + 2} are done already)" in said

    after = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(after) == {"tracks", "s0.30", "s0.60"}
    assert {run.info.run_id for run in after.values()} == {run.info.run_id for run in before}
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    for name in ("s0.30", "s0.60", "tracks"):
        own = results if name == "tracks" else results.filter(pc.equal(results["setting_name"], name))
        metrics = after[name].data.metrics
        assert metrics["covers_made"] == pc.sum(pc.equal(own["status"], "ok")).as_py()
        assert metrics["covers_failed"] == metrics["failed/missing_file"] == (2 if name == "tracks" else 1)
        for metric, column in (("audio_seconds", "duration_s"), ("denoise_seconds", "denoise_s")):
            assert metrics[metric] == pytest.approx(pc.sum(own[column]).as_py())
        artifacts = {found.path for found in client.list_artifacts(after[name].info.run_id)}
        of_job = {"job.json", "results.json", "results.parquet", "comparison"}
        assert artifacts == (of_job if name == "tracks" else {"samples", "tracks.json"})
    assert results.equals(pq.read_table(output / "results"))
