"""The Serve deployment that runs the HTTP server.

It listens by itself: Serve's proxy has no timeout for clients that stall, and buffers whole bodies in memory.
"""

import asyncio
import logging
import socket
from collections.abc import Callable

from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from pipeline.service.config import ServiceSpec
from pipeline.service.http_server import listening_at, make_server

BIND_S = 30.0  # time for a hanging predecessor to be stopped and free the port
log = logging.getLogger(__name__)


class HttpDeployment:
    """The HTTP side of a service.

    Raises:
        OSError: the port is taken.
        RuntimeError: the application did not start.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, build: Callable[[DeploymentHandle], ASGIApp], spec: ServiceSpec, engine: DeploymentHandle
    ) -> None:
        listening = await _bound(spec.host, spec.port)
        self.server = make_server(build(engine), spec.limits)
        self.serving = asyncio.create_task(self._serve(listening))
        while not self.server.started and not self.serving.done():
            await asyncio.sleep(0.05)
        self.check_health()

    async def _serve(self, listening: socket.socket) -> None:
        try:
            await self.server.serve([listening])
        except SystemExit as error:  # uvicorn's way to say that the application did not start
            raise RuntimeError("the HTTP server did not start; its log says why") from error

    def check_health(self) -> None:
        """Called by Serve, which replaces a replica that raises.

        Raises:
            RuntimeError: the server has ended.
        """
        if self.serving.done():
            raise RuntimeError("the HTTP server has ended") from self.serving.exception()

    async def __del__(self) -> None:
        """Called by Serve at shutdown."""
        self.server.should_exit = True
        await asyncio.wait([self.serving])


async def _bound(host: str, port: int) -> socket.socket:
    """A bound socket; waits until the address is free."""
    until = asyncio.get_running_loop().time() + BIND_S
    while True:
        try:
            return listening_at(host, port)
        except OSError:
            if asyncio.get_running_loop().time() > until:
                raise
        await asyncio.sleep(0.5)
