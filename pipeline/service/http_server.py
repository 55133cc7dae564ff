"""The HTTP server: uvicorn, with deadlines for clients that send or take nothing.

A connection costs a descriptor and a few kilobytes, and no more until its request is there; what a client may hold
is bounded in time, and all connections in number, so that nobody waits for another's client.
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

TICKS = 5  # of uvicorn's, a tenth of a second each, from one look at the connections to the next
RATE = 1000  # bytes a second that are not slow
QUIET_S = 5.0  # without a word: a reply that has begun is then a stream of events
HEADER_BYTES = 1 << 16
SEND_BYTES = 1 << 18  # of a reply that the system holds for a client that does not take it
LEAVE_S = 1  # for replies under way when the server ends
MAX_CONNECTIONS = 4000
SPARE_FILES = 500  # descriptors for all else that the process opens

TIMEOUT = ProblemError(408, "timeout", "the request was not sent in time", "send all of it at once")
FULL = ProblemError(503, "busy", "too many connections are open", "come again later", retry_after_s=10)

log = logging.getLogger(__name__)
Phase = Literal["idle", "header", "drain", "body", "stream", "reply"]
# In which a connection may be ended to make room, the first of them first.
WAITING: tuple[Phase, ...] = ("idle", "header", "drain", "body", "stream")


class Connection(H11Protocol):
    """A client's connection, ended where the client keeps it waiting."""

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
        """End the connection if its client is overdue; called now and then."""
        taken = self.written - self.transport.get_write_buffer_size()
        if taken == self.written or taken - self.taken_before >= RATE * self.limits.idle_s:
            self.taken_at, self.taken_before = now, taken
        elif now - self.taken_at > self.limits.idle_s:
            self.transport.abort()  # what the client does not take would keep it open after a close
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
        """What is awaited: a request, the rest of its header or body, or of a body that nobody needs; the next
        event of a stream; the reply."""
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
        """Close the connection, with a word where a request has begun and is not answered."""
        phase, cycle = self._phase(), self.cycle
        if phase == "header" or (phase == "body" and not cycle.response_started) or problem is FULL:
            self.transport.write(_whole_reply(problem))
        if phase == "body":
            # The application sees that its client is gone.
            cycle.disconnected = True
            cycle.message_event.set()
        log.debug("%s: %s, connection ended", self.client, phase)
        self.transport.close()

    def _make_room(self) -> None:
        """Close some of the connections that wait for their clients, or this one where there are none."""
        others = [cast(Connection, other) for other in self.connections if other is not self]
        waiting = [other for other in others if other._phase() in WAITING and not other.transport.is_closing()]
        for other in nsmallest(self.max_connections // 50 + 1, waiting, key=Connection._worth):
            other._end()
        if not waiting:
            self._end(FULL)

    def _worth(self) -> tuple[int, float]:
        """Smaller for a connection that is ended before others: the oldest of a phase, of bodies the smallest."""
        phase = self.phase[0]
        return WAITING.index(phase) if phase in WAITING else 0, self.received if phase == "body" else self.since


class _Counted:
    """A transport that counts what is written to it."""

    def __init__(self, transport: asyncio.Transport, connection: Connection):
        self._transport, self._connection = transport, connection

    def write(self, data: bytes) -> None:
        self._connection.written += len(data)
        self._connection.wrote_at = self._connection.loop.time()
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Server(uvicorn.Server):
    """uvicorn's server, which looks at its connections now and then."""

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                cast(Connection, connection).check(now)
        return await super().on_tick(counter)


def make_server(app: ASGIApp, limits: Limits) -> Server:
    """A server of an application, to be run with ``serve(sockets=[...])`` on sockets that are bound."""
    for name in ("uvicorn.error", "uvicorn.asgi"):
        logging.getLogger(name).setLevel(logging.ERROR)  # a request that is no HTTP is worth no warning
    protocol = partial(Connection, limits, _max_connections())
    config = uvicorn.Config(
        app,
        http=cast(type[asyncio.Protocol], protocol),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=ceil(limits.idle_s) + 1,  # ours is exact
        timeout_graceful_shutdown=LEAVE_S,
        h11_max_incomplete_event_size=HEADER_BYTES,
        backlog=2048,
    )
    return Server(config)


def listening_at(host: str, port: int) -> socket.socket:
    """A socket for ``Server.serve``, bound to an address.

    Raises:
        OSError: somebody else is.
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
    """As many as the process may have, having asked for all that it can have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(min(MAX_CONNECTIONS, soft - SPARE_FILES), 16)


def _whole_reply(problem: ProblemError) -> bytes:
    """The bytes of a reply to a request that the application has not seen, or sees no more."""
    body = json.dumps(problem.as_json()).encode()
    headers = {"Content-Type": "application/json", "Content-Length": len(body), "Connection": "close"}
    lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in (headers | retry_after(problem)).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
