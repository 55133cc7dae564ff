"""What the nodes of a joined cluster are given: environment variables, this code, the packages it needs."""

import json
import os
import shutil
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import acestep
from acestep.errors import RequestError

# Set by Ray for the entrypoint of a job that was submitted to it.
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# On a CPU, decoding threads and torch's threads share the cores: a waiting one must not spin.
VARIABLES = {"OMP_WAIT_POLICY": "PASSIVE"}
# Workers import nothing above the pipeline.
SHIPPED = ("acestep", "pipeline")


def inside_ray_job() -> bool:
    """Whether this process is the entrypoint of a submitted Ray job, whose environment was chosen with it."""
    return JOB in os.environ


def runtime_environment(ship_code: bool, install: bool) -> dict[str, Any]:
    """Ray's ``runtime_env`` for a job of ours; a submitted job has its code already.

    Raises:
        RequestError: packages are to be installed, and there is nothing to install them by.
    """
    submitted = json.loads(os.environ.get(JOB, "{}")).get("runtime_env") or {}
    # Ray refuses a variable that the submitted job sets too.
    given = submitted.get("env_vars", {})
    environment: dict[str, Any] = {"env_vars": {k: v for k, v in VARIABLES.items() if k not in given}}
    root = Path(acestep.__file__).parents[1]
    if ship_code and not inside_ray_job():
        environment["py_modules"] = [str(root / name) for name in SHIPPED]
        environment["excludes"] = ["__pycache__"]
    if install:
        if inside_ray_job() or not (root / "constraints.txt").is_file():
            raise RequestError(
                "cluster.install needs a checkout, whose constraints.txt says the versions, and a job that joins; "
                "one that is submitted installs with `ray job submit --runtime-env jobs/launch/install.yaml`"
            )
        # A folder of its own, since this is the only way by which a file reaches pip on the nodes.
        folder = Path(tempfile.mkdtemp(prefix="restyle-constraints-"))
        shutil.copy(root / "constraints.txt", folder)
        environment["working_dir"] = str(folder)
        constrained = "-c ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt"
        environment["pip"] = {"packages": [constrained, *needed((root / "pyproject.toml").read_text())]}
    return environment


def needed(project: str) -> list[str]:
    """What the text of a pyproject.toml says that workers need, without Ray: they run in one already."""
    stated: list[str] = tomllib.loads(project)["project"]["dependencies"]
    return [requirement for requirement in stated if not requirement.startswith("ray")]
