"""A folder has one owner, whether services or jobs want it, and what a killed owner left behind ends."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import httpx
import psutil
import pytest
import soundfile

from pipeline.storage.lease import hold_lease, holder_of
from pipeline.storage.lease_holder import LeaseHolder
from pipeline.storage.store import open_store
from tests import miniature
from tests.conftest import tone
from tests.launched import ROOT, free_ports, start

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
START_S, END_S = 180, 60


def service(output: Path, port: int, *more: str) -> list[str]:
    words = [f"output={output}", f"port={port}", f"model={miniature.TURBO}", "metrics=off", "page=false"]
    roots = f"access.roots=[{output.parent}]"
    return [sys.executable, "-m", "jobs.serve", *words, "cluster.workers=1", roots, *more]


def job(output: Path) -> list[str]:
    soundfile.write(output.parent / "a.wav", tone(1.0), 48_000)
    (output.parent / "m.csv").write_text("track_id,source,caption\na,a.wav,jazz\n")
    words = [f"output={output}", f"manifest={output.parent / 'm.csv'}", f"model={miniature.TURBO}", "metrics=off"]
    return [sys.executable, "-m", "jobs.restyle", *words, "cluster.workers=1", "listen_tracks=0"]


def ended(command: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@contextmanager
def up(command: list[str], port: int, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A service that answers; killed at the end."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        until = time.monotonic() + START_S
        while not answers(port):
            assert process.poll() is None, process.returncode
            assert time.monotonic() < until
            time.sleep(0.5)
        yield process
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def until_gone(port: int) -> float:
    began = time.monotonic()
    while answers(port):
        assert time.monotonic() - began < END_S
        time.sleep(0.5)
    return time.monotonic() - began


def make(port: int, seed: int) -> httpx.Response:
    asked = {"src_audio": "a.wav", "caption": "c", "inference_steps": 1, "seed": seed, "response_format": "json"}
    return httpx.post(f"http://127.0.0.1:{port}/v1/audio/generations", json=asked, timeout=60)


def test_services_and_jobs_share_no_folder(tmp_path: Path) -> None:
    output, (port, other) = tmp_path / "out", free_ports(2)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    work = job(output)
    with up(service(output, port), port, environment) as first:
        inside = psutil.Process(first.pid).children(recursive=True)
        assert make(port, 1).status_code == 200
        holder = holder_of(open_store(str(output)))
        assert holder is not None
        assert holder.pid == first.pid
        for refused in (ended(service(output, other), environment), ended(work, environment)):
            assert refused.returncode == 2
            assert f"in use by process {first.pid}" in refused.stderr.replace("\n", " ")
        assert make(port, 2).status_code == 200
        first.kill()
        first.wait()
        # The next owner has it at once, with what the first one had made.
        done = ended(work, environment)
        assert done.returncode == 0, done.stderr
        assert len(list(output.glob("results/*.parquet"))) == 2
        _, alive = psutil.wait_procs(inside, END_S)
        assert not alive
    with up(service(output, port), port, environment):
        before = len(list(output.glob("audio/*/*")))
        assert make(port, 1).status_code == 200
        assert len(list(output.glob("audio/*/*"))) == before


def test_a_service_of_a_job_that_holds_the_folder_is_refused_wherever_it_runs(tmp_path: Path) -> None:
    """One that runs elsewhere is waited for, until it is silent for long enough."""
    output, port = tmp_path / "out", free_ports(1)[0]
    output.mkdir()
    with hold_lease(open_store(str(output)), "out") as held:
        refused = ended(service(output, port), os.environ)
        assert (refused.returncode, f"process {held.lease.holder.pid}" in refused.stderr) == (2, True)
    elsewhere = LeaseHolder("node7", 4242, "2026-11-28T01:02:03Z", "python -m jobs.restyle", "another", "1", "x")
    (output / ".5.lease").write_text(json.dumps(asdict(elsewhere)))
    touching = subprocess.Popen(["sh", "-c", f"while sleep 1; do touch {output}/.5.lease; done"])
    try:
        refused = ended(service(output, port), os.environ)
        assert (refused.returncode, "process 4242 on node7" in refused.stderr.replace("\n", " ")) == (2, True)
    finally:
        touching.kill()
        touching.wait()


def test_a_service_on_a_cluster_that_goes_on_ends_with_its_starter(tmp_path: Path) -> None:
    """Serve's applications outlive the process that started them; a folder without its holder is not written."""
    output, (port, other) = tmp_path / "out", free_ports(2)
    soundfile.write(tmp_path / "a.wav", tone(1.0), 48_000)
    with start() as cluster:
        joined = ("cluster=existing", f"cluster.address={cluster.address}", "cluster.ship_code=true")
        with up(service(output, port, *joined), port, cluster.environment) as first:
            assert make(port, 1).status_code == 200
            first.kill()
            first.wait()
            with up(service(output, other, *joined), other, cluster.environment):
                assert not answers(port)
                assert make(other, 1).status_code == 200
                assert len(list(output.glob("audio/*/*"))) == 1
        assert until_gone(other) < END_S
