"""Clusters: which one an address means, how many workers it can hold, what its nodes are given."""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from acestep.errors import RequestError
from pipeline.cluster import connection
from pipeline.cluster import pool as clusters
from pipeline.cluster.address import check_reachable, resolve_address
from pipeline.cluster.pool import check, refuse_ephemeral, size_pool
from pipeline.cluster.runtime_env import JOB, needed, runtime_environment
from pipeline.cluster.spec import ClusterSpec
from tests.launched import ROOT, Launched, python, start
from tests.refusals import raises

A100 = "accelerator_type:A100"
GPU_NODE = {"CPU": 16.0, "GPU": 2.0, A100: 1.0}
CPU_NODE = {"CPU": 8.0}


@pytest.fixture(scope="module")
def launched() -> Iterator[Launched]:
    with start() as cluster:
        yield cluster


@pytest.fixture
def nothing_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No RAY_ADDRESS, and the folder where ``ray start`` would leave a note."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.usefixtures("ray_cluster")
def test_pool_follows_the_cluster_and_what_is_asked() -> None:
    pool = size_pool(ClusterSpec())
    assert (pool.workers, pool.most, pool.gpus_per_worker, pool.threads) == (1, 1, 0.0, 2)
    assert pool.cluster == "local, 2 CPUs"
    assert size_pool(ClusterSpec(workers=3)).threads == 1
    growing = size_pool(ClusterSpec(workers=1, max_workers=4))
    assert (growing.workers, growing.most, growing.threads) == (1, 4, 1)
    for more in (ClusterSpec(workers=2, gpus_per_worker=1), ClusterSpec(resources={"a100": 1})):
        with pytest.raises(RequestError, match=r"need . GPU.* each, and there is place for 0 \(local, 2 CPUs\)"):
            size_pool(more)


@pytest.mark.parametrize(
    ("spec", "kind", "field", "value"),
    [
        (ClusterSpec(workers=0), "out_of_range", "workers", 0),
        (ClusterSpec(calls_per_worker=0), "out_of_range", "calls_per_worker", 0),
        (ClusterSpec(gpus_per_worker=-1), "out_of_range", "gpus_per_worker", -1),
        (ClusterSpec(gpus_per_worker=1.5), "no_resources", "gpus_per_worker", 1.5),
        (ClusterSpec(workers=4, max_workers=2), "out_of_range", "max_workers", 2),
        (ClusterSpec(resources={"GPU": 1}), "invalid_value", "resources", "GPU"),
        (ClusterSpec(resources={"a100": 0}), "wrong_type", "resources", "a100"),
        (ClusterSpec(resources={"accelerator_type": "A100:1"}), "wrong_type", "resources", "accelerator_type"),  # type: ignore[dict-item]
        (ClusterSpec(resources=5), "wrong_type", "resources", 5),  # type: ignore[arg-type]
    ],
)
def test_values_that_fit_no_cluster(spec: ClusterSpec, kind: str, field: str, value: object) -> None:
    with raises(RequestError, kind, f"cluster.{field}", value):
        check(spec)


@pytest.mark.parametrize(
    ("node", "share", "resources", "workers"),
    [
        (GPU_NODE, 1, {}, 2),
        (GPU_NODE, 2, {}, 1),
        (GPU_NODE, 3, {}, 0),
        (GPU_NODE, 0.5, {}, 4),
        (GPU_NODE, 0.4, {}, 4),  # five tenths of two GPUs are left, on no single one
        (GPU_NODE, 0.6, {}, 2),
        (GPU_NODE, 0.1, {}, 20),
        (GPU_NODE, 1, {A100: 0.001}, 2),
        (GPU_NODE, 0.5, {A100: 0.5}, 2),
        (GPU_NODE, 0, {A100: 0.001}, 1),
        (CPU_NODE, 0, {}, 1),
        (CPU_NODE, 0, {A100: 0.001}, 0),
        (CPU_NODE, 1, {}, 0),
    ],
)
def test_place_on_a_node(
    node: Mapping[str, float], share: float, resources: dict[str, float], workers: int
) -> None:
    assert clusters._room(node, share, resources) == workers


def test_what_an_address_means(nothing_named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_address("auto") == resolve_address("local") == "local"
    assert resolve_address("10.0.0.1:6379") == "10.0.0.1:6379"
    with pytest.raises(RequestError, match=r"RAY_ADDRESS names none.*cluster.address=host:port"):
        resolve_address("existing")
    nothing_named.write_text("127.0.0.1:6379")
    assert (resolve_address("auto"), resolve_address("existing")) == ("local", "auto")
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert (resolve_address("auto"), resolve_address("existing"), resolve_address("local")) == (
        "head:6379",
        "head:6379",
        "local",
    )


def test_a_cluster_that_is_gone_is_a_message_within_seconds(
    nothing_named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = f"127.0.0.1:{free_port()}"
    nothing_named.write_text(gone)
    for spec in (ClusterSpec(address="existing"), ClusterSpec(address=gone)):
        with pytest.raises(RequestError, match=rf"'{gone}' does not answer"):
            connection._join(spec, resolve_address(spec.address))
    with pytest.raises(RequestError, match="where `ray job submit` goes"):
        check_reachable("http://127.0.0.1:8265")
    monkeypatch.setenv("RAY_ADDRESS", gone)
    with pytest.raises(RequestError, match=f"this job joins {gone}; leave them out"):
        connection._join(ClusterSpec(cpus=2), resolve_address("auto"))


def test_what_nodes_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB, raising=False)
    given = runtime_environment(ship_code=True, install=True)
    assert {Path(module).name for module in given["py_modules"]} == {"acestep", "pipeline"}
    constrained, *packages = given["pip"]["packages"]
    assert (Path(given["working_dir"]) / constrained.rpartition("/")[2]).read_text().count("==") > 100
    assert packages == needed((ROOT / "pyproject.toml").read_text())
    assert any(package.startswith("torch==") for package in packages)
    assert not any(package.startswith("ray") for package in packages)
    assert runtime_environment(ship_code=False, install=False) == {"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}}


def test_inside_a_submitted_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB, raising=False)
    refuse_ephemeral(manifest="tracks.csv", output="out")
    submitted = {"runtime_env": {"working_dir": "gcs://x.zip", "env_vars": {"OMP_WAIT_POLICY": "ACTIVE"}}}
    monkeypatch.setenv(JOB, json.dumps(submitted))
    assert runtime_environment(ship_code=True, install=False) == {"env_vars": {}}
    with pytest.raises(RequestError, match=r"submitted installs with .*install\.yaml"):
        runtime_environment(ship_code=True, install=True)
    refuse_ephemeral(manifest="/shared/tracks.csv", output="s3://bucket/out", catalogue=None)
    with raises(RequestError, "invalid_value", "output", "out", remedy="give an absolute path"):
        refuse_ephemeral(manifest="s3://bucket/tracks.csv", output="out")


JOIN = """
import sys
import ray
from pipeline.cluster.connection import connect
from pipeline.cluster.pool import size_pool
from pipeline.cluster.spec import ClusterSpec
connect(ClusterSpec(address=sys.argv[1]))
@ray.remote(num_cpus=0)
def where():
    import os, pipeline.worker.restyle_worker, acestep
    return pipeline.__file__, acestep.__file__, os.environ["OMP_WAIT_POLICY"]
print(*ray.get(where.remote()))
print(size_pool(ClusterSpec(address=sys.argv[1])).cluster)
"""


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("how", ["existing", "auto", "host:port"])
def test_a_cluster_is_joined_and_runs_this_code(launched: Launched, how: str, tmp_path: Path) -> None:
    environment = launched.environment | ({} if how == "existing" else {"RAY_ADDRESS": launched.address})
    done = python(["-c", JOIN, launched.address if how == "host:port" else how], environment, tmp_path)
    assert done.returncode == 0, done.stderr
    code, cluster = done.stdout.strip().splitlines()[-2:]
    for file in code.split()[:2]:
        assert file.startswith(str(launched.folder))
    assert cluster.endswith(f"{launched.port}, 1 node, 2 CPUs")


@pytest.mark.cluster
@pytest.mark.slow
def test_a_wrong_token_is_a_message(launched: Launched, tmp_path: Path) -> None:
    wrong = launched.environment | {"RAY_AUTH_TOKEN": "0" * 64}
    done = python(["-c", JOIN, launched.address], wrong, tmp_path)
    assert "refuses the connection" in done.stderr
    assert "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in done.stderr


MIXED = """
import time
import ray
from ray.cluster_utils import Cluster
from pipeline.cluster.connection import connect
from pipeline.cluster.pool import Pool, size_pool, explain_unplaced
from pipeline.cluster.spec import ClusterSpec
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
for gpus, custom in ((3, {"a100": 1}), (1, {})):
    cluster.add_node(num_cpus=1, num_gpus=gpus, resources=custom)
def pool(**asked):
    return size_pool(ClusterSpec(address=cluster.address, **asked))
connect(ClusterSpec(address=cluster.address))
for asked in ({}, {"gpus_per_worker": 2}, {"gpus_per_worker": 0.4}, {"resources": {"a100": 0.001}}, {"workers": 9},
              {"max_workers": 2}, {"workers": 2, "max_workers": 6}, {"gpus_per_worker": 0}):
    print(asked, pool(**asked))
@ray.remote(num_cpus=0, num_gpus=0.4)
class Worker:
    def ready(self): return 1
asked = [Worker.remote().ready.remote() for _ in range(10)]
asked = ray.wait(asked, num_returns=8, timeout=60)[0]
print("placed", len(asked))
print(explain_unplaced(ClusterSpec(address=cluster.address, start_timeout_s=5), pool(workers=9)))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.cluster
@pytest.mark.slow
def test_a_pool_over_unequal_nodes(tmp_path: Path) -> None:
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    done = python(["-c", MIXED], environment, tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    for expected in (
        "{} Pool(workers=4, most=4, gpus_per_worker=1.0",
        "{'gpus_per_worker': 2} Pool(workers=1,",
        "{'gpus_per_worker': 0.4} Pool(workers=8,",
        "{'resources': {'a100': 0.001}} Pool(workers=3,",
        "{'workers': 9} Pool(workers=9,",
        "{'max_workers': 2} Pool(workers=2, most=2,",
        "{'workers': 2, 'max_workers': 6} Pool(workers=2, most=6,",
        "{'gpus_per_worker': 0} Pool(workers=3, most=3, gpus_per_worker=0, threads=1,",
        "3 nodes, 4 GPUs",
        "placed 8",
        "9 workers with 1 GPU each did not start within 5 s",
        "has place for 4 when nothing else runs there",
    ):
        assert expected in said
