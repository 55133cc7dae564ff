"""Makes the replicas of a service listen on the loopback address only."""

from functools import partial

import ray
from ray._common.network_utils import build_address, is_localhost
from ray._common.tls_utils import add_port_to_grpc_server
from ray.serve._private import replica


def listen_on_loopback() -> None:
    """Make the replica in this process listen on loopback if the node does; call it before initialization."""
    # Serve hard-codes "every interface".
    address = ray.util.get_node_ip_address()
    if is_localhost(address):
        replica.add_port_to_grpc_server = partial(_add_port, build_address(address, 0))


def _add_port(address: str, server: object, requested: str) -> int:
    return int(add_port_to_grpc_server(server, address))
