"""Filter in front of the page's Gradio server: passes only the routes that the page needs, and uploaded files.

Gradio as a mounted application accepts any local path or URL in place of an upload, and proxies URLs for anyone;
the service has its own rules for readable sources.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from acestep.parameters.values import from_json
from pipeline.service.api_keys import ApiKeys
from pipeline.service.page.visitor_files import VisitorFiles
from pipeline.service.problem_details import ProblemError, retry_after

API = "/gradio_api"
NEEDED = {
    "/",
    "/config",
    "/theme.css",
    "/login",
    "/logout",
    "/favicon.ico",
    "/manifest.json",
    f"{API}/startup-events",
    f"{API}/info",
    f"{API}/app_id",
    f"{API}/user",
    f"{API}/login_check",
    f"{API}/upload",
    f"{API}/upload_progress",
    f"{API}/queue/join",
    f"{API}/queue/data",
    f"{API}/cancel",
    f"{API}/reset",
}
NEEDED_BELOW = ("/assets/", "/static/", "/svelte/", f"{API}/heartbeat/")
JOIN, UPLOAD, FILE = f"{API}/queue/join", f"{API}/upload", f"{API}/file="
MAX_BYTES = 1_000_000  # of an event's values


def filter_requests(app: ASGIApp, files: VisitorFiles, keys: ApiKeys) -> ASGIApp:
    """ASGI middleware around the page's server; delays clients that sent too many wrong keys.

    Args:
        files: uploads of visitors and files shown to them.
    """
    folder = files.folder.resolve()

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        try:
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            _refuse_address(path, folder)
            if path.rstrip("/") == "/login":
                keys.check()
            if path == JOIN:
                receive = await _checked(Request(scope, receive), folder)
            if path == UPLOAD:
                announced = Request(scope).headers.get("content-length", "")
                await asyncio.to_thread(files.arrived, int(announced) if announced.isdigit() else 0)
        except ProblemError as problem:
            await JSONResponse(problem.as_json(), problem.status, retry_after(problem))(scope, receive, send)
            return
        await app(scope, receive, send)

    return guarded


def _refuse_address(path: str, folder: Path) -> None:
    """Refuse routes that the page does not need (404)."""
    needed = path.rstrip("/") in NEEDED or path == "/" or path.startswith(NEEDED_BELOW)
    if not needed and not (path.startswith(FILE) and _sent(path.removeprefix(FILE), folder)):
        raise ProblemError("unknown_address", "the page has no such address")


async def _checked(request: Request, folder: Path) -> Receive:
    """The body of an event, replayed; refuses large bodies (413), invalid JSON and files of others (422)."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise ProblemError("too_large", f"the controls hold more than {MAX_BYTES} bytes", "shorten the texts")
    try:
        named = list(_paths(from_json(body)))
    except ValueError:
        raise ProblemError("invalid_value", "the event is no JSON", "load the page again") from None
    for path in named:
        if not _sent(path, folder):
            raise ProblemError("not_sent", field="path", value=path)

    async def again() -> Message:
        nonlocal body
        if body:
            message: Message = {"type": "http.request", "body": body, "more_body": False}
            body = b""
            return message
        return await request.receive()

    return again


def _paths(values: Any) -> Iterator[Any]:
    """Every file path in an event, at any depth."""
    inner = values.values() if isinstance(values, dict) else values if isinstance(values, list) else ()
    if isinstance(values, dict) and "path" in values:
        yield values["path"]
    for value in inner:
        yield from _paths(value)


def _sent(path: Any, folder: Path) -> bool:
    """Whether a path is in the folder of uploads and shown files."""
    try:
        return isinstance(path, str) and Path(path).resolve().is_relative_to(folder)
    except (ValueError, RuntimeError):  # an invalid name; a link to itself
        return False
