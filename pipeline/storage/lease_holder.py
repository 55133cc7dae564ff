"""Who holds a folder: a process on some machine, and whether it still runs."""

import os
import platform
import shlex
import sys
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from acestep.redaction import redacted


@dataclass(frozen=True)
class LeaseHolder:
    """Who holds a folder.

    since: ISO 8601, UTC. command: its command line, without passwords.
    machine: names the boot and the process namespace in which ``pid`` means something; "" where that is not known.
    started: when its process started, in ticks since the boot: process ids are used again.
    inode: of the folder, which a copy of the folder does not have and a moved one keeps; 0 on an object store.
    """

    host: str = "an unknown machine"
    pid: int = 0
    since: str = "an unknown time"
    command: str = "unknown"
    machine: str = ""
    started: str = ""
    token: str = ""
    inode: int = 0

    def __str__(self) -> str:
        if not self.pid:
            return "an unknown process"
        return f"process {self.pid} on {self.host} since {self.since} ({self.command})"


def this_process() -> LeaseHolder:
    """This process, as the holder of a folder."""
    words = ["python", *sys.orig_argv[1:]]
    return LeaseHolder(
        host=platform.node(),
        pid=os.getpid(),
        since=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        command=shlex.join(map(redacted, words)),
        machine=_machine(),
        started=_started(os.getpid()) or "",
        token=uuid.uuid4().hex,
    )


def is_alive(holder: LeaseHolder, inode: int) -> bool | None:
    """Whether a holder's process runs and holds the folder with this inode; None where that cannot be seen.

    The device is not compared: a network folder that is mounted twice has two.
    """
    if not holder.machine or holder.machine != _machine():
        return None
    if holder.inode and holder.inode != inode:
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    started = _started(holder.pid)
    return None if started is None else started == holder.started


@lru_cache
def _machine() -> str:
    """This machine since its boot, and the namespace of process ids; "" where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process started, in ticks since the boot, "" for one that has ended; None where it cannot be seen."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if fields[0] in "ZX" else fields[19]
