"""A Ray cluster of several nodes on one machine, each a tree of processes that can be killed like a machine."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

HEAD_IP = "127.0.0.1"
START_S = 120.0
# A lost node is noticed after 2 s, not after 15: nothing else changes.
IMPATIENT = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1500",
    "RAY_health_check_failure_threshold": "3",
}


def free_port() -> int:
    """A port where nobody listens now."""
    with socket.create_server((HEAD_IP, 0)) as free:
        return int(free.getsockname()[1])


class Node:
    """``ray start --block`` and everything below it."""

    def __init__(self, process: subprocess.Popen[bytes]):
        self.process = process

    @property
    def pids(self) -> set[int]:
        """Its processes: Ray's own and the workers."""
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return set()
        return {self.process.pid, *(child.pid for child in children)}

    def kill(self) -> None:
        """As when its power fails: all at once, and nothing can say goodbye."""
        pids = self.pids
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that none sees another one die
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        self.process.wait()


class Nodes:
    """The cluster: a head, and nodes that come and go. Every node has one ``seat``."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.address = f"{HEAD_IP}:{free_port()}"
        # A token of its own: Ray asks for one as soon as this user has any.
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            **IMPATIENT,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        self.nodes: list[Node] = []

    def add_head(self) -> Node:
        """The first node."""
        return self._start("--head", f"--port={self.address.rpartition(':')[2]}", f"--temp-dir={self.folder}",
                           "--include-dashboard=false", f"--ray-client-server-port={free_port()}",
                           ip=HEAD_IP)  # fmt: skip

    def add(self) -> Node:
        """One node more; it is there when this returns."""
        return self._start(f"--address={self.address}", ip=f"127.0.0.{len(self.nodes) + 1}")

    def _start(self, *arguments: str, ip: str) -> Node:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats",
                   f"--node-ip-address={ip}", "--num-cpus=1", "--num-gpus=0", "--resources", '{"seat": 1}',
                   "--object-store-memory=100000000", "--min-worker-port=0", "--max-worker-port=0",
                   "--dashboard-agent-listen-port=0", *arguments]  # fmt: skip
        said = self.folder / f"node{len(self.nodes)}.log"
        with said.open("wb") as log:
            process = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.nodes.append(Node(process))
        deadline = time.monotonic() + START_S
        while "Ray runtime started" not in said.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(said.read_text())
            time.sleep(0.1)
        return self.nodes[-1]


@contextmanager
def nodes() -> Iterator[Nodes]:
    """A head with a seat; its processes and files are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))  # short: Ray's sockets lie in it
    started = Nodes(folder)
    try:
        started.add_head()
        yield started
    finally:
        for node in started.nodes:
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)
