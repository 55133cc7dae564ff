"""A job's command line in this process, which spares a test the start of another one."""

import importlib
import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

from hydra.core.global_hydra import GlobalHydra


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run_job(name: str, *arguments: str) -> Done:
    """``python -m jobs.NAME ARGUMENTS``; a job that needs a cluster takes the one of ``ray_cluster``."""
    GlobalHydra.instance().clear()
    out, err, status = io.StringIO(), io.StringIO(), 0
    job = importlib.import_module(f"jobs.{name}")
    with patch.object(sys, "argv", [f"jobs.{name}", *arguments]), redirect_stdout(out), redirect_stderr(err):
        try:
            job.main()
        except SystemExit as leaving:
            status = int(leaving.code or 0)
    return Done(status, out.getvalue(), err.getvalue())
