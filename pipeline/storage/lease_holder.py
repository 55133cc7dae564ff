"""The process that holds a folder, and whether it still runs."""

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
    """The process that holds a folder.

    since: ISO 8601, UTC.
    command: command line without passwords.
    machine: boot id and PID namespace in which ``pid`` is valid; "" if unknown.
    started: start time of the process in clock ticks since boot, because process ids are reused.
    inode: the folder's inode, which a moved folder keeps and a copy does not; 0 on an object store.
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
    """The current process as a ``LeaseHolder`` with a new token."""
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
    """Whether a holder's process runs and holds the folder with this inode; None if that cannot be determined.

    Device numbers are not compared: a network folder mounted twice has two.
    """
    if not holder.machine or holder.machine != _machine():
        return None
    if holder.inode and holder.inode != inode:
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        pass
    started = _started(holder.pid)
    return None if started is None else started == holder.started


@lru_cache
def _machine() -> str:
    """Host name, boot id and PID namespace; "" if the system does not expose them."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot; "" if it has ended, None if /proc does not show it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if fields[0] in "ZX" else fields[19]
