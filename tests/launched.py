"""A Ray cluster of its own processes, as `ray start` makes one: own ports, own folder, own token."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
PORTS = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@dataclass(frozen=True)
class Launched:
    """Where it listens, where its files are, and the environment of who may use it."""

    port: int
    dashboard: str
    folder: Path
    environment: dict[str, str]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


def python(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path, timeout_s: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run this Python elsewhere."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=dict(environment),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in taken]
    for one in taken:
        one.close()
    return ports


@contextmanager
def start() -> Iterator[Launched]:
    """A head node with two CPUs and the job server; ends with the block."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # the sockets in it allow no long path
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "OMP_WAIT_POLICY": "PASSIVE",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0", "--disable-usage-stats"]
    command += ["--include-dashboard=true", "--object-store-memory=100000000", "--min-worker-port=0"]
    command += ["--max-worker-port=0", *(f"--{name}={port}" for name, port in ports.items())]
    with (folder / "log").open("w") as log:
        # Away from the checkout, so that no node finds the code by itself.
        head = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 90
        while "runtime started" not in (folder / "log").read_text():
            if head.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "log").read_text())
            time.sleep(0.5)
        yield Launched(ports["port"], f"http://127.0.0.1:{ports['dashboard-port']}", folder, environment)
    finally:
        # Asked politely, Ray drains the node for half a minute; all its processes are in this group.
        with suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def listeners(process: psutil.Process) -> set[tuple[str, str]]:
    """Name of the process and address of each TCP port that a process and its descendants listen at."""
    found = set()
    for one in (process, *process.children(recursive=True)):
        try:
            sockets = one.net_connections(kind="tcp")
            found |= {(one.name(), each.laddr.ip) for each in sockets if each.status == psutil.CONN_LISTEN}
        except psutil.NoSuchProcess:
            continue
    return found
