"""Addresses of Ray clusters: resolution and reachability."""

import os
import socket
from pathlib import Path

from acestep.errors import RequestError

KNOCK_SECONDS = 5.0
LOCAL = "local"
LOOPBACK = "127.0.0.1"


def resolve_address(address: str) -> str:
    """Resolve ``cluster.address`` to "local", "auto" (the cluster on this machine, found by Ray) or host:port.

    Raises:
        RequestError: a cluster is to be joined but none is known.
    """
    if address not in ("auto", "existing"):
        return address
    named = os.environ.get("RAY_ADDRESS", "")
    if named not in ("", "auto"):
        return named
    if address == "auto" and not named:
        return LOCAL
    if local_cluster_address() is None:
        remedy = "give cluster.address=host:port, or cluster=local to start one here"
        reason = "finds no cluster: RAY_ADDRESS names none and `ray start` has started none on this machine"
        raise RequestError("invalid_value", reason, remedy, "cluster.address", address)
    return "auto"


def check_reachable(address: str) -> None:
    """Check that ``[ray://]host:port`` accepts connections.

    Raises:
        RequestError: nothing answers, or the address is that of the dashboard.
    """
    if address.startswith("http"):
        remedy = "a job joins host:port of the head node, as a rule with port 6379"
        raise RequestError("invalid_value", f"cluster {address} is where `ray job submit` goes", remedy)
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()
    except (OSError, ValueError) as error:
        remedy = "give host:port of a running Ray cluster, or cluster=local to start one here"
        reason = f"does not answer ({error})"
        raise RequestError("unreachable", reason, remedy, "cluster.address", address) from error


def local_cluster_address() -> str | None:
    """Address that ``ray start`` recorded on this machine; the cluster may have ended since."""
    note = Path(scratch_folder()) / "ray" / "ray_current_cluster"
    return note.read_text().strip() if note.is_file() else None


def scratch_folder() -> str:
    """Folder of the files and sockets of Ray clusters on this machine."""
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
