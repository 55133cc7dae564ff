"""Limits on request bodies: the size of each, and the total of all that are being received."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.service.config import Limits
from pipeline.service.problem_details import ProblemError, retry_after

UPLOADS = 8  # complete uploads that fit on disk at once
MEMORY_BYTES = 1 << 26  # of bodies without files, which are held in memory
STALLED_S = 2.0
Result = TypeVar("Result")
HELD = "restyle.held"  # key in a request's scope: the reservation of its body


class BodyBudget:
    """Bytes of bodies held at once. Where they run out, the body that has stalled longest is dropped."""

    def __init__(self, max_bytes: float):
        self.max_bytes = max_bytes
        self.total = 0
        self.held: dict[BodyReservation, int] = {}

    def take(self, body: "BodyReservation", count: int) -> bool:
        """Reserve ``count`` more bytes for a body; returns whether they fit."""
        self.held[body] = self.held.get(body, 0) + count
        self.total += count
        while self.total > self.max_bytes:
            stalled = [other for other in self.held if other is not body and other.stalled_s > STALLED_S]
            if not stalled:
                return False
            max(stalled, key=lambda other: other.stalled_s).give_up()
        return True

    def free(self, body: "BodyReservation") -> None:
        """Release the bytes of a body."""
        self.total -= self.held.pop(body, 0)


class BodyReservation:
    """The bytes that one request's body holds."""

    def __init__(self, budget: BodyBudget):
        self.budget = budget
        self.waits_since: float | None = None
        self.given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def stalled_s(self) -> float:
        """Seconds for which the client has sent nothing while more was expected."""
        return 0.0 if self.waits_since is None else time.monotonic() - self.waits_since

    def give_up(self) -> None:
        """Drop an incomplete body; its client gets an error."""
        self.release()
        if not self.given_up.done():
            self.given_up.set_result(None)

    def release(self) -> None:
        """Release the held bytes."""
        self.waits_since = None
        self.budget.free(self)


class BodyLimitMiddleware:
    """ASGI middleware that limits request bodies.

    When a body is rejected halfway, the client gets an error reply and the application sees a disconnect.
    """

    def __init__(self, app: ASGIApp, limits: Limits):
        self.app = app
        self.max_bytes = limits.upload_mb * 1e6 + limits.body_kb * 1e3
        self.files = BodyBudget(UPLOADS * self.max_bytes)
        self.texts = BodyBudget(max(MEMORY_BYTES, UPLOADS * limits.body_kb * 1e3))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_form = headers.get("content-type", "").lower().startswith("multipart/")
        held = scope[HELD] = BodyReservation(self.files if is_form else self.texts)
        over, begun, seen = False, False, 0
        whole = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers

        async def refuse(problem: ProblemError) -> Message:
            nonlocal over
            if not begun:
                closing = {"Connection": "close"} | retry_after(problem)
                await JSONResponse(problem.as_json(), problem.status, closing)(scope, receive, send)
            over = True
            return {"type": "http.disconnect"}

        async def received() -> Message:
            nonlocal seen, whole
            if over:
                return {"type": "http.disconnect"}
            if whole:
                return await receive()
            held.waits_since = time.monotonic()
            getting = asyncio.ensure_future(receive())
            try:
                await asyncio.wait((getting, held.given_up), return_when=asyncio.FIRST_COMPLETED)
            finally:
                held.waits_since = None
                if not getting.done():
                    getting.cancel()
            if not getting.done():
                return await refuse(_stalled())
            message = getting.result()
            whole = not message.get("more_body", False)
            count = len(message.get("body", b""))
            seen += count
            if seen > self.max_bytes:
                return await refuse(_too_large(self.max_bytes))
            if count and not held.budget.take(held, count):
                return await refuse(_full())
            return message

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            if not over:
                await send(message)

        announced = headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > self.max_bytes:
            await refuse(_too_large(self.max_bytes))
            return
        try:
            await self.app(scope, received, sent)
        finally:
            held.release()


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Run work while the client, whose body was read, stays connected.

    Raises:
        ClientDisconnect: the client left; the work is cancelled.
    """

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


def _too_large(max_bytes: float) -> ProblemError:
    return ProblemError(
        "too_large", f"the body is larger than {max_bytes:.0f} bytes", "see this service's limits.upload_mb"
    )


def _full() -> ProblemError:
    reason = "the bodies under way leave no room for another"
    return ProblemError("busy", reason, "come again", status=503, retry_after_s=10)


def _stalled() -> ProblemError:
    return ProblemError("timeout", "the body stalled, and others needed its room")
