"""The HTTP server: uvicorn with timeouts for clients that stall.

Each phase of a connection is bounded in time, and the number of connections is bounded, so that slow clients do
not block others.
"""

import asyncio
import json
import logging
import resource
import socket
from functools import partial
from heapq import nsmallest
from http import HTTPStatus
from math import ceil
from typing import Any, Literal, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.service.config import Limits
from pipeline.service.problem_details import ProblemError, retry_after

TICKS = 5  # of uvicorn, 0.1 s each, between two checks of the connections
RATE = 1000  # bytes a second; slower clients count as stalled
QUIET_S = 5.0  # without output, after which a response that has begun counts as an event stream
HEADER_BYTES = 1 << 16
SEND_BYTES = 1 << 18  # of a response, buffered by the system for a slow client
LEAVE_S = 1  # for pending responses at shutdown
MAX_CONNECTIONS = 4000
SPARE_FILES = 500  # descriptors for all other files of the process

TIMEOUT = ProblemError("timeout", "the request was not sent in time")
FULL = ProblemError("busy", "too many connections are open", "come again later", status=503, retry_after_s=10)

log = logging.getLogger(__name__)
Phase = Literal["idle", "header", "drain", "body", "stream", "reply"]
# Phases in which a connection may be closed to make room, in this order.
WAITING: tuple[Phase, ...] = ("idle", "header", "drain", "body", "stream")


class Connection(H11Protocol):
    """A client's connection, closed when the client stalls."""

    def __init__(self, limits: Limits, max_connections: int, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self.limits, self.max_connections = limits, max_connections
        self.received = self.written = 0
        self.phase: tuple[Phase, Any] = ("idle", None)
        self.since = self.received_at = self.taken_at = self.wrote_at = self.loop.time()
        self.received_before = self.taken_before = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, _Counted(transport, self)))
        if len(self.connections) > self.max_connections:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        super().data_received(data)

    def check(self, now: float) -> None:
        """Close the connection if its client is overdue; called periodically."""
        taken = self.written - self.transport.get_write_buffer_size()
        if taken == self.written or taken - self.taken_before >= RATE * self.limits.idle_s:
            self.taken_at, self.taken_before = now, taken
        elif now - self.taken_at > self.limits.idle_s:
            self.transport.abort()  # a close would wait for the client to read the rest
            return
        if self.transport.is_closing():
            return
        phase = (self._phase(), self.cycle)
        if phase != self.phase or self.flow.read_paused:
            since = self.since if phase == self.phase else now
            self.phase, self.since = phase, since
            self.received_at, self.received_before = now, self.received
        elif self.received - self.received_before >= RATE * self.limits.idle_s:
            self.received_at, self.received_before = now, self.received
        if self._is_overdue(now):
            self._end()

    def _phase(self) -> Phase:
        """The current phase: idle, receiving a header or a body, draining an unneeded body, streaming events, or
        waiting for the application's reply."""
        if self.conn.our_state is h11.IDLE:
            return "header" if self.conn.trailing_data[0] else "idle"
        cycle = self.cycle
        if self.conn.their_state is not h11.SEND_BODY:
            quiet = self.loop.time() - self.wrote_at > QUIET_S
            return "stream" if cycle is not None and cycle.response_started and quiet else "reply"
        if cycle is None or cycle.response_complete:
            return "drain"
        return "reply" if cycle.waiting_for_100_continue else "body"

    def _is_overdue(self, now: float) -> bool:
        waited, quiet, limits = now - self.since, now - self.received_at, self.limits
        return {
            "idle": waited > limits.idle_s,
            "header": waited > limits.header_s,
            "body": waited > limits.body_s or quiet > limits.idle_s,
            "drain": waited > limits.idle_s,
            "stream": False,
            "reply": False,
        }[self.phase[0]]

    def _end(self, problem: ProblemError = TIMEOUT) -> None:
        """Close the connection, with an error reply to a request that has begun and is not answered."""
        phase, cycle = self._phase(), self.cycle
        if phase == "header" or (phase == "body" and not cycle.response_started) or problem is FULL:
            self.transport.write(_whole_reply(problem))
        if phase == "body":
            # The application sees a disconnect.
            cycle.disconnected = True
            cycle.message_event.set()
        log.debug("%s: %s, connection ended", self.client, phase)
        self.transport.close()

    def _make_room(self) -> None:
        """Close some of the connections that wait for their clients, or this one if there are none."""
        others = [cast(Connection, other) for other in self.connections if other is not self]
        waiting = [other for other in others if other._phase() in WAITING and not other.transport.is_closing()]
        for other in nsmallest(self.max_connections // 50 + 1, waiting, key=Connection._worth):
            other._end()
        if not waiting:
            self._end(FULL)

    def _worth(self) -> tuple[int, float]:
        """Sort key of eviction: the oldest of the first phase, of bodies the smallest."""
        phase = self.phase[0]
        return WAITING.index(phase) if phase in WAITING else 0, self.received if phase == "body" else self.since


class _Counted:
    """A transport that counts the bytes written."""

    def __init__(self, transport: asyncio.Transport, connection: Connection):
        self._transport, self._connection = transport, connection

    def write(self, data: bytes) -> None:
        self._connection.written += len(data)
        self._connection.wrote_at = self._connection.loop.time()
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Server(uvicorn.Server):
    """uvicorn's server with periodic checks of its connections."""

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                cast(Connection, connection).check(now)
        return await super().on_tick(counter)


def make_server(app: ASGIApp, limits: Limits) -> Server:
    """A server of an application, to be run with ``serve(sockets=[...])`` on bound sockets."""
    for name in ("uvicorn.error", "uvicorn.asgi"):
        logging.getLogger(name).setLevel(logging.ERROR)  # malformed requests need no warning
    protocol = partial(Connection, limits, _max_connections())
    config = uvicorn.Config(
        app,
        http=cast(type[asyncio.Protocol], protocol),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=ceil(limits.idle_s) + 1,  # a fallback: Connection.check is exact
        timeout_graceful_shutdown=LEAVE_S,
        h11_max_incomplete_event_size=HEADER_BYTES,
        backlog=2048,
    )
    return Server(config)


def listening_at(host: str, port: int) -> socket.socket:
    """A bound socket for ``Server.serve``.

    Raises:
        OSError: the address is in use.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    return listening


def _max_connections() -> int:
    """The maximum of connections that the file limit allows, after raising it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = MAX_CONNECTIONS + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(min(MAX_CONNECTIONS, soft - SPARE_FILES), 16)


def _whole_reply(problem: ProblemError) -> bytes:
    """The bytes of an error reply that is sent without the application."""
    body = json.dumps(problem.as_json()).encode()
    headers = {"Content-Type": "application/json", "Content-Length": len(body), "Connection": "close"}
    lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in (headers | retry_after(problem)).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
