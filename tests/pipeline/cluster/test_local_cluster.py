"""A cluster that a job starts: it listens to this machine alone, and says in one message why it did not start."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from acestep.errors import RequestError
from jobs.exit_status import COULD_NOT_START
from pipeline.cluster import local_cluster
from tests.launched import LOOPBACK, python

ROOT = Path(__file__).parents[3]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
# A cluster of its own in a process of its own: starts it, and prints what its processes listen at.
LISTENERS = """
import sys, time, psutil, ray
from pipeline.cluster.connection import connect
from pipeline.cluster.spec import ClusterSpec
from tests.launched import listeners
given = {} if sys.argv[1] == "default" else {"node_ip_address": None}
connect(ClusterSpec(address="local", cpus=1, gpus=0, **given))
@ray.remote(num_cpus=0)
class Worker:
    def ready(self): return 1
worker = Worker.remote()
ray.get(worker.ready.remote())
names = set()
while "agent" not in " ".join(names):  # the last to come
    found = listeners(psutil.Process())
    names = {name.lower() for name, _ in found}
print(found)
"""
STARTS = """
import sys
from jobs.exit_status import exit_on_error
from pipeline.cluster.connection import connect
from pipeline.cluster.spec import ClusterSpec
with exit_on_error():
    connect(ClusterSpec(address="local", cpus=1, gpus=0, start_timeout_s=float(sys.argv[1])))
"""


@pytest.mark.slow  # a service's cluster, tests/jobs/test_serve.py, shows the default in every run
@pytest.mark.parametrize("given", ["default", "none"])
def test_every_port_listens_on_loopback_unless_told_otherwise(given: str, tmp_path: Path) -> None:
    done = python(["-c", LISTENERS, given], ENVIRONMENT, tmp_path)
    assert done.returncode == 0, done.stderr
    found = ast.literal_eval(done.stdout)
    assert {"gcs_server", "raylet"} <= {name for name, _ in found}
    elsewhere = {(name, address) for name, address in found if address not in LOOPBACK}
    assert bool(elsewhere) is (given == "none"), elsewhere


@pytest.mark.parametrize(
    ("daemon", "number", "timeout_s", "said"),
    [
        pytest.param("raylet", signal.SIGSTOP, 5, "its node was not there after 5 s", marks=pytest.mark.slow),
        ("raylet", signal.SIGKILL, 60, "raylet was killed by SIGKILL"),
        pytest.param("gcs_server", signal.SIGKILL, 5, "gcs_server was killed by SIGKILL", marks=pytest.mark.slow),
    ],
)
def test_a_ray_that_does_not_start_is_one_message(
    daemon: str, number: signal.Signals, timeout_s: int, said: str, tmp_path: Path
) -> None:
    job = subprocess.Popen(
        [sys.executable, "-c", STARTS, str(timeout_s)],
        env=ENVIRONMENT, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    children: list[psutil.Process] = []
    while daemon not in {each.name() for each in children}:
        assert job.poll() is None, job.communicate()
        children = psutil.Process(job.pid).children(recursive=True)
        time.sleep(0.01)
    next(each for each in children if each.name() == daemon).send_signal(number)
    told = job.communicate(timeout=120)[0]
    assert job.returncode == COULD_NOT_START, told
    assert said in told
    assert "cluster.start_timeout_s" in told
    assert "Traceback" not in told
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_a_cluster_without_a_token_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "Disabled")
    with pytest.raises(RequestError, match="RAY_AUTH_MODE"):
        local_cluster.start(1, 0, "127.0.0.1", 60)


def test_an_address_of_another_machine() -> None:
    with pytest.raises(RequestError, match=r"node_ip_address '192\.0\.2\.200'"):
        local_cluster.start(1, 0, "192.0.2.200", 60)
