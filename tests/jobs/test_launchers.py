"""The launchers of other clusters start the job that the command line starts here."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.runtime_env import RuntimeEnv

from jobs.restyle import INCOMPLETE, job_of
from jobs.schema import register
from pipeline.cluster.pool import check
from pipeline.cluster.spec import ClusterSpec
from pipeline.results.reader import current_rows
from pipeline.storage.store import open_store
from tests.launched import ROOT, Launched, start
from tests.miniature import BASE, TURBO

LAUNCH = ROOT / "jobs" / "launch"
BIN = Path(sys.executable).parent
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
CATALOGUE = ROOT / "pipeline" / "demo_catalogue" / "manifest.csv"

# Keys of ray.io/v1 RayJob and RayCluster that the manifest uses, from KubeRay's API reference.
RAY_JOB = {
    "entrypoint": str,
    "backoffLimit": int,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "runtimeEnvYAML": str,
    "rayClusterSpec": dict,
}
RAY_CLUSTER = {
    "rayVersion": str,
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": dict,
    "authOptions": dict,
    "headGroupSpec": dict,
    "workerGroupSpecs": list,
}
HEAD = {"rayStartParams": dict, "template": dict}
WORKERS = HEAD | {"groupName": str, "minReplicas": int, "replicas": int, "maxReplicas": int}


@pytest.fixture(scope="module")
def launched() -> Iterator[Launched]:
    with start() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((LAUNCH / "kuberay.yaml").read_text())
    return content


def cluster_of(arguments: list[str]) -> ClusterSpec:
    """The cluster that arguments of jobs.restyle ask for; they are composed and checked."""
    GlobalHydra.instance().clear()
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cluster = job_of(compose("restyle", overrides=arguments)).cluster
    check(cluster)
    return cluster


def test_kuberay_manifest_has_the_shape_of_a_ray_job(manifest: dict[str, Any]) -> None:
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    spec = manifest["spec"]
    cluster = spec["rayClusterSpec"]
    groups = [(cluster["headGroupSpec"], HEAD), *((group, WORKERS) for group in cluster["workerGroupSpecs"])]
    for part, known in [(spec, RAY_JOB), (cluster, RAY_CLUSTER), *groups]:
        assert {name: type(value) for name, value in part.items()} == known
    for group, _ in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
    RuntimeEnv(**yaml.safe_load(spec["runtimeEnvYAML"]))


def test_kuberay_manifest_grows_as_far_as_the_job_asks(manifest: dict[str, Any]) -> None:
    spec = manifest["spec"]
    job, _, accepted = spec["entrypoint"].partition("||")
    assert accepted.strip() == f"test $? -eq {INCOMPLETE}"
    command = shlex.split(job)
    assert command[:3] == ["python", "-m", "jobs.restyle"]
    cluster = cluster_of(command[3:])
    resource = {"metadata": {"name": "c", "namespace": "n"}, "spec": spec["rayClusterSpec"]}
    nodes = _derive_autoscaling_config_from_ray_cr(resource)[
        "available_node_types"
    ]  # as Ray's autoscaler reads it
    assert nodes["headgroup"]["resources"]["GPU"] == nodes["headgroup"]["resources"]["CPU"] == 0
    assert nodes["gpu"]["resources"]["GPU"] == cluster.gpus_per_worker == 1
    assert (nodes["gpu"]["max_workers"], cluster.workers) == (cluster.max_workers, 1)


def test_versions_are_those_of_the_constraints(manifest: dict[str, Any]) -> None:
    assert manifest["spec"]["rayClusterSpec"]["rayVersion"] == PINS["ray"]
    assert f"FROM rayproject/ray:{PINS['ray']}-py3" in (LAUNCH / "Dockerfile").read_text()
    assert version("ray") == PINS["ray"]


def test_install_yaml_is_a_runtime_environment() -> None:
    RuntimeEnv(**yaml.safe_load((LAUNCH / "install.yaml").read_text()))


def test_slurm_script_is_clean_bash_and_calls_what_ray_has() -> None:
    script = LAUNCH / "slurm.sh"
    subprocess.run([BIN / "shellcheck", script], check=True)
    text = script.read_text()
    command = re.search(r"ray symmetric-run (.*?) -- ", text.replace("\\\n", " "))
    assert command
    flags = set(re.findall(r"--[a-z-]+", command[1]))
    helps = [
        subprocess.run([BIN / "ray", verb, "--help"], check=True, capture_output=True, text=True).stdout
        for verb in ("symmetric-run", "start")
    ]
    assert flags >= {"--address", "--min-nodes"}
    assert all(any(flag in text for text in helps) for flag in flags)
    for header in ("--requeue", "--signal=B:TERM@120", "--ntasks-per-node=1", "--open-mode=append"):
        assert f"#SBATCH {header}\n" in text


def test_commands_in_readme_name_files_and_keys_that_exist() -> None:
    section = (ROOT / "README.md").read_text().partition("### Run it on a cluster")[2].partition("\n## ")[0]
    files = set(re.findall(r"jobs/launch/[\w.]+", section))
    assert files == {f"jobs/launch/{file.name}" for file in LAUNCH.iterdir() if file.is_file()}
    written = re.findall(r"'(cluster\.[^']+)'|\b(cluster(?:\.\w+)?=[^\s`'\"]*)", section)
    overrides = [quoted or bare for quoted, bare in written]
    assert len(overrides) >= 9
    for override in overrides:
        key, _, value = override.partition("=")
        assert cluster_of(["manifest=m.csv", "output=out", f"model={BASE}", *([override] if value else [])])
        assert key == "cluster" or hasattr(ClusterSpec(), key.removeprefix("cluster."))


@pytest.mark.cluster
def test_ray_job_submit(launched: Launched, tmp_path: Path) -> None:
    command = [BIN / "ray", "job", "submit", "--address", launched.dashboard, "--working-dir", ROOT, "--"]
    job = [
        "python",
        "-m",
        "jobs.restyle",
        f"manifest={CATALOGUE}",
        f"model={TURBO}",
        "cover.inference_steps=1",
    ]
    job += ["tracking.enabled=false", f"output={tmp_path / 'out'}"]
    done = subprocess.run([*command, *job], env=launched.environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{launched.port}, 1 node, 2 CPUs" in done.stdout
    rows = current_rows(open_store(str(tmp_path / "out"))).to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert all((tmp_path / "out" / row["audio_path"]).is_file() for row in rows)
    shipped = launched.folder / "ray" / "session_latest" / "runtime_resources" / "working_dir_files"
    (package,) = (folder for folder in shipped.iterdir() if folder.is_dir())
    assert (package / "constraints.txt").is_file()
    assert not any((package / name).exists() for name in (".venv", "outputs", ".git"))
