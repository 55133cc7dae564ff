"""A pool that is lost or cannot start ends the job with the reason, soon, and the same command goes on."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from pipeline.results.reader import read_results
from pipeline.storage.store import open_store
from tests.cluster.launches import SEEDS, Launches, write_catalogue

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
HERE = ("cluster=local", "cluster.cpus=2", "cluster.gpus=0", "cluster.workers=1")
BROKE_OFF, INCOMPLETE = 1, 3


def daemon(job: subprocess.Popen[bytes], name: str) -> psutil.Process:
    return next(each for each in psutil.Process(job.pid).children() if each.name() == name)


@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_daemon_of_ray_that_dies(name: str, tmp_path: Path) -> None:
    launches = Launches(tmp_path / "job", write_catalogue(tmp_path, 4), os.environ | {"PACE_S": "0.5"}, *HERE)
    job = launches.start()
    launches.until(job, lambda: launches.done() >= 2)
    daemon(job, name).kill()
    assert job.wait(50) == BROKE_OFF  # Ray itself takes a minute
    told = launches.said.read_text()
    assert f"{name} was killed by SIGKILL" in told
    assert "the same command goes on" in told
    assert "Traceback" not in told
    assert launches.kept()

    launches.run()
    assert len(launches.audio()) == 4 * SEEDS


def test_workers_that_the_memory_monitor_kills_while_they_start(tmp_path: Path) -> None:
    # More than this is always in use, whatever else runs here.
    short = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
    launches = Launches(tmp_path / "job", write_catalogue(tmp_path, 2), os.environ | short, *HERE)
    job = launches.start()
    assert job.wait(200) == BROKE_OFF
    told = launches.said.read_text()
    assert "killed by Ray's memory monitor" in told
    assert "RAY_memory_usage_threshold" in told
    assert "no worker is ready" in told


def test_a_track_that_takes_its_worker_over_the_monitor_s_limit(tmp_path: Path) -> None:
    memory = psutil.virtual_memory()
    if memory.available < 8e9:
        pytest.skip("the machine has too little memory left to let one track use a lot")
    threshold = (memory.total - memory.available + 3.5e9) / memory.total
    limited = {"RAY_memory_usage_threshold": str(threshold), "RAY_memory_monitor_refresh_ms": "100"}
    launches = Launches(tmp_path / "job", write_catalogue(tmp_path, 4), os.environ | limited, *HERE, "grid.seed=1")
    launches.command[2] = "tests.cluster.hog"
    job = launches.start()
    assert job.wait(300) == INCOMPLETE, launches.said.read_text()
    rows = {row["track_id"]: row for row in read_results(open_store(str(launches.output))).to_pylist()}
    assert rows.pop("t001")["error_kind"] == "out_of_memory"
    assert [row["status"] for row in rows.values()] == ["ok"] * 3
    assert "killed by Ray's memory monitor" in launches.said.read_text()


def test_a_stop_request_is_not_held_up_by_a_worker_that_hangs(tmp_path: Path) -> None:
    job_at = tmp_path / "job"
    launches = Launches(
        job_at, write_catalogue(tmp_path, 4), os.environ | {"PACE_S": "0.2"}, *HERE, "cluster.stop_timeout_s=3"
    )
    job = launches.start()
    launches.until(job, lambda: launches.done() >= 2 and bool(launches.busy()))
    (worker,) = launches.busy()
    os.kill(worker, signal.SIGSTOP)
    time.sleep(0.5)
    job.send_signal(signal.SIGTERM)
    assert job.wait(50) == 128 + signal.SIGTERM
    assert "under way" in launches.said.read_text()
    assert "Traceback" not in launches.said.read_text()
