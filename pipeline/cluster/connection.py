"""Connect to Ray: start a cluster on this machine, or join a running one."""

import logging
import os

import ray

from acestep.errors import RequestError
from pipeline.cluster import local_cluster
from pipeline.cluster.address import LOCAL, LOOPBACK, check_reachable, local_cluster_address, resolve_address
from pipeline.cluster.daemons import keep_signal_handlers
from pipeline.cluster.pool import check
from pipeline.cluster.runtime_env import runtime_environment
from pipeline.cluster.spec import ClusterSpec


def connect(cluster: ClusterSpec) -> None:
    """Start or join a Ray cluster; a Ray that is already initialized is used as it is.

    Raises:
        RequestError: there is no cluster at the address, it refuses the connection, or none can be started.
        ClusterStartError: Ray did not start on this machine.
    """
    check(cluster)
    for chatty in ("ray.data", "ray._private.authentication"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    # Logs the traceback of exceptions that it also raises.
    logging.getLogger("ray.data.exceptions").setLevel(logging.CRITICAL)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if ray.is_initialized():
        return
    address = resolve_address(cluster.address)
    if address == LOCAL:
        local_cluster.start(cluster.cpus, cluster.gpus, cluster.node_ip_address, cluster.start_timeout_s)
    else:
        _join(cluster, address)


def _join(cluster: ClusterSpec, address: str) -> None:
    if cluster.cpus is not None or cluster.gpus is not None:
        remedy = "leave them out, or take cluster=local"
        reason = f"cluster.cpus and cluster.gpus size a cluster that is started here, and this job joins {address}"
        raise RequestError("conflict", reason, remedy)
    if cluster.node_ip_address not in (LOOPBACK, None):
        raise RequestError(
            "conflict",
            f"is for a cluster that is started here, and this job joins {address}",
            "leave it out",
            "cluster.node_ip_address",
            cluster.node_ip_address,
        )
    # Ray retries an unreachable address for minutes, including a stale one recorded by `ray start`.
    check_reachable(local_cluster_address() or address if address == "auto" else address)
    environment = runtime_environment(cluster.ship_code, cluster.install)
    try:
        # For a cluster on this machine, Ray loads the user's token only if the address is "auto".
        with keep_signal_handlers():
            ray.init(address=address, logging_level=logging.WARNING, runtime_env=environment)
    except ConnectionError as error:
        remedy = (
            "where the cluster asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (`ray "
            "get-auth-token` on its head node says it)"
        )
        raise RequestError(
            "unreachable", f"cluster {address}: it refuses the connection ({error})", remedy
        ) from error
    except (RuntimeError, ValueError) as error:
        raise RequestError("unreachable", f"cluster {address} cannot be joined: {error}") from error
