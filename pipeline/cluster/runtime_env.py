"""Ray ``runtime_env`` of a job: environment variables, code and packages for the nodes of a cluster."""

import json
import os
import shutil
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import acestep
from acestep.errors import RequestError

# Set by Ray for the entrypoint of a submitted job.
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# Decoding threads and torch's threads share the cores, so waiting OpenMP threads must not spin.
VARIABLES = {"OMP_WAIT_POLICY": "PASSIVE"}
SHIPPED = ("acestep", "pipeline")  # packages that workers import


def inside_ray_job() -> bool:
    """Whether this process is the entrypoint of a submitted Ray job."""
    return JOB in os.environ


def runtime_environment(ship_code: bool, install: bool) -> dict[str, Any]:
    """Ray's ``runtime_env`` for this job; a submitted job already has its code.

    Raises:
        RequestError: ``install`` is set and there is no constraints.txt, or the job was submitted.
    """
    submitted = json.loads(os.environ.get(JOB, "{}")).get("runtime_env") or {}
    # Ray refuses variables that the submitted job also sets.
    given = submitted.get("env_vars", {})
    environment: dict[str, Any] = {"env_vars": {k: v for k, v in VARIABLES.items() if k not in given}}
    root = Path(acestep.__file__).parents[1]
    if ship_code and not inside_ray_job():
        environment["py_modules"] = [str(root / name) for name in SHIPPED]
        environment["excludes"] = ["__pycache__"]
    if install:
        if inside_ray_job() or not (root / "constraints.txt").is_file():
            remedy = "one that is submitted installs with `ray job submit --runtime-env jobs/launch/install.yaml`"
            reason = "needs a checkout, whose constraints.txt says the versions, and a job that joins"
            raise RequestError("invalid_value", reason, remedy, "cluster.install")
        # A working_dir is the only way to pass a file to pip on the nodes.
        folder = Path(tempfile.mkdtemp(prefix="restyle-constraints-"))
        shutil.copy(root / "constraints.txt", folder)
        environment["working_dir"] = str(folder)
        constrained = "-c ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt"
        environment["pip"] = {"packages": [constrained, *needed((root / "pyproject.toml").read_text())]}
    return environment


def needed(project: str) -> list[str]:
    """Dependencies from the text of a pyproject.toml, without Ray, which the nodes already have."""
    stated: list[str] = tomllib.loads(project)["project"]["dependencies"]
    return [requirement for requirement in stated if not requirement.startswith("ray")]
