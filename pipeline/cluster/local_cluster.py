"""Start a Ray cluster on this machine that ends with the job."""

import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
from ray._private import services, worker
from ray._raylet import Config  # type: ignore[attr-defined]

from acestep.errors import RequestError, RestyleError
from pipeline.cluster.address import LOCAL, scratch_folder
from pipeline.cluster.daemons import Daemon, detached_daemons
from pipeline.cluster.runtime_env import runtime_environment

MAX_SCRATCH_CHARACTERS = 40  # the paths of the sockets that Ray makes below it may have 107
OBJECT_STORE_BYTES = 300_000_000
AGAIN_S = 0.5
NEEDED = ("gcs_server", "raylet")
LOGS = "ray/session_latest/logs"


class ClusterStartError(RestyleError):
    """Ray did not start on this machine."""


def start(cpus: int | None, gpus: int | None, node_ip_address: str | None, timeout_s: float) -> None:
    """Start a cluster on this machine.

    Args:
        node_ip_address: address that its ports listen on; Ray treats any address but loopback as all interfaces.
            None lets Ray choose.
        timeout_s: time limit for the start of Ray's daemons.

    Raises:
        RequestError: the scratch folder, the address or the authentication mode is not usable.
        ClusterStartError: a daemon ended, or did not start in time.
    """
    _refuse_open_cluster()
    if node_ip_address is not None:
        _refuse_foreign(node_ip_address)
    # Timeout of Ray's wait for its port file; the default is 30 s.
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", str(int(timeout_s)))
    daemons: list[Daemon] = []
    try:
        with detached_daemons() as daemons, _patient(daemons, timeout_s), _loopback_allowed():
            ray.init(
                address=LOCAL,
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                logging_level=logging.WARNING,
                runtime_env=runtime_environment(ship_code=False, install=False),
                _node_ip_address=node_ip_address,
            )
    except OSError as error:
        _end(daemons)
        folder = scratch_folder()
        too_long = len(str(folder)) > MAX_SCRATCH_CHARACTERS
        wants = "a folder with a shorter path" if too_long else "a folder that can be written"
        remedy = f"set RAY_TMPDIR to {wants}, such as RAY_TMPDIR=/tmp"
        reason = f"Ray cannot start with its files in {folder} ({error})"
        raise RequestError("not_writable", reason, remedy) from error
    except Exception as error:  # Ray raises plain Exceptions here
        why = _ended(daemons) or _last_line(error)
        _end(daemons)
        remedy = (
            f"its logs are in {Path(scratch_folder()) / LOGS}. Where the machine is busy, wait or "
            f"raise cluster.start_timeout_s (now {timeout_s:g}), and give the same command again"
        )
        raise ClusterStartError("cluster_failed", f"Ray did not start on this machine: {why}", remedy) from error


def find_dead_daemon() -> str | None:
    """Describe the required daemons that have ended in the cluster started by this process; None if all run.

    Ray works without the other daemons, such as the log monitor.
    """
    node = worker._global_node
    if node is None:
        return None
    ended = [f"{kind} {_how(process.returncode)}" for kind, process in node.dead_processes() if kind in NEEDED]
    return ", ".join(ended) or None


def _refuse_open_cluster() -> None:
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        remedy = "unset it (Ray then makes a token by itself), or join a cluster of your own with cluster.address"
        raise RequestError(
            "invalid_value",
            "RAY_AUTH_MODE=disabled lets every user of this machine run code in the cluster that this job starts",
            remedy,
        )


def _refuse_foreign(address: str) -> None:
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as probe:
            probe.bind((address, 0))
    except OSError as error:
        remedy = "give one that it has, or leave the key out to listen on loopback alone"
        reason = f"is no address of this machine ({error})"
        raise RequestError("invalid_value", reason, remedy, "cluster.node_ip_address", address) from None


@contextmanager
def _loopback_allowed() -> Iterator[None]:
    """Within the block, ``ray.init`` accepts a loopback address instead of replacing it by a network address."""
    with patch.object(services, "resolve_ip_for_localhost", lambda host: host):
        yield


@contextmanager
def _patient(daemons: list[Daemon], timeout_s: float) -> Iterator[None]:
    """Within the block, ``ray.init`` waits up to ``timeout_s`` for its node while the daemons run."""
    # Ray hard-codes 30 s both for the wait and for a single query of its node.
    deadline, look = time.monotonic() + timeout_s, services.get_node
    one_look = patch.dict(os.environ, {"RAY_raylet_start_wait_time_s": "1"})

    def get_node(gcs_address: str, node_id: str) -> Any:
        while True:
            try:
                return look(gcs_address, node_id)
            except RuntimeError as error:
                if why := _ended(daemons):
                    raise ClusterStartError("cluster_failed", why) from error
                if time.monotonic() > deadline:
                    reason = f"its node was not there after {timeout_s:g} s"
                    raise ClusterStartError("cluster_failed", reason) from error
                time.sleep(AGAIN_S)

    with one_look, patch.object(services, "get_node", get_node):
        Config.initialize("")
        yield


def _ended(daemons: list[Daemon]) -> str:
    return ", ".join(f"{one.name} {_how(one.returncode)}" for one in daemons if one.poll() is not None)


def _end(daemons: list[Daemon]) -> None:
    for daemon in daemons:
        with suppress(OSError):
            daemon.kill()


def _how(status: int) -> str:
    """Describe a ``Popen.returncode``."""
    if status >= 0:
        return f"ended with status {status}"
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-status).name}"
    return f"was killed by signal {-status}"


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
