"""The HTTP application: routes, authentication, and errors as problem details."""

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from acestep.checkpoints.demo import ABOUT, VARIANTS
from acestep.constants import NUMERICS_VERSION
from acestep.errors import RestyleError
from pipeline.service import openapi
from pipeline.service.admission import Admission, SentFile
from pipeline.service.api_keys import ApiKeys
from pipeline.service.body_limits import HELD, BodyLimitMiddleware, while_connected
from pipeline.service.config import ServiceSpec
from pipeline.service.file_response import StoredFileResponse
from pipeline.service.hosts import parse_origin
from pipeline.service.problem_details import (
    SHORT_OF_SPACE,
    ProblemError,
    gone,
    not_stored,
    of_error,
    of_row,
    retry_after,
)
from pipeline.service.prometheus import ServiceMetrics, count_requests
from pipeline.service.request_body import NAMES, Body, read_body
from pipeline.service.responses import EXPOSED, as_json, audio_headers, media_type
from pipeline.service.scheduler import Generation
from pipeline.service.security_middleware import SecurityMiddleware, access_rules

log = logging.getLogger(__name__)
GENERATIONS = "/v1/audio/generations"
TIDY_S = 5.0
MAX_OPEN = 1000  # requests that wait for their covers, each with a connection
LOOK_S, LOOKS_S = 1.0, 10.0  # interval between two checks of the models, and timeout of one
Ready = Callable[[], Awaitable[bool]]


def make_app(
    open_admission: Callable[[], Awaitable[Admission]],
    ready: Ready,
    spec: ServiceSpec,
    keys: ApiKeys,
) -> FastAPI:
    """Build the application.

    Args:
        open_admission: called once, within the event loop that serves.
        ready: whether a model replica is running; polled in the background.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        admission = app.state.admission = await open_admission()
        app.state.metrics = ServiceMetrics(
            lambda: len(admission.scheduler.queue), lambda: admission.scheduler.busy
        )
        resumed = await admission.scheduler.resume()
        if resumed:
            log.warning("going on with %d generations that an earlier run left open", resumed)
        app.state.ready = False
        background = [asyncio.create_task(work) for work in (_look(app, ready), _tidy(app))]
        yield
        for task in background:
            task.cancel()

    app = FastAPI(
        title="Restyle",
        version=str(NUMERICS_VERSION),
        description="Covers of music in another style, by the engine of the catalogue job.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.given = {}
    app.state.waiting = 0

    written = b""

    def owner_of(request: Request) -> str:
        """The digest of the request's key.

        Raises:
            ProblemError: 401 without a valid key; 429 after too many wrong ones.
        """
        bearer = request.headers.get("authorization", "")
        return keys.owner(bearer[7:] if bearer[:7].lower() == "bearer " else request.headers.get("x-api-key", ""))

    @app.exception_handler(RestyleError)
    async def refused(request: Request, error: RestyleError) -> JSONResponse:
        problem = of_error(error, getattr(request.state, "given", {}), NAMES)
        headers = retry_after(problem)
        headers |= {"WWW-Authenticate": "Bearer"} if problem.status == 401 else {}
        # Without this, the server would read the rest of a rejected body to its end.
        headers |= {"Connection": "close"} if problem.status in (413, 507) else {}
        return JSONResponse(problem.as_json(), problem.status, headers)

    @app.exception_handler(OSError)
    async def storage_failed(request: Request, error: OSError) -> JSONResponse:
        log.error("storage failed: %s", error)
        return await refused(request, not_stored(str(error)))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        # Starlette raises the error again after the reply, which logs it.
        problem = ProblemError(500, "internal_error", "the service failed", "tell whoever runs it")
        return JSONResponse(problem.as_json(), 500)

    @app.exception_handler(HTTPException)
    async def not_routed(request: Request, error: HTTPException) -> JSONResponse:
        kind = {404: "unknown_address", 405: "unknown_method"}.get(error.status_code, "refused")
        problem = ProblemError(error.status_code, kind, str(error.detail), "see /openapi.json")
        return JSONResponse(problem.as_json(), error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = str(first["loc"][-1])
        problem = ProblemError(422, "invalid_value", f"{field}: {first['msg']}", "see /openapi.json", field)
        return JSONResponse(problem.as_json(), 422)

    # The middleware added last runs first.
    app.add_middleware(BodyLimitMiddleware, limits=spec.limits)
    # Gradio leaves CORS to the application that it is mounted in; by itself it allows every origin.
    app.add_middleware(
        CORSMiddleware,
        allow_origins=[str(origin) for origin in map(parse_origin, spec.access.origins)],
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["Authorization", "X-API-Key", "Content-Type"],
        expose_headers=EXPOSED,
    )
    app.add_middleware(SecurityMiddleware, rules=access_rules(spec, bool(keys)))
    app.add_middleware(count_requests, metrics=lambda: app.state.metrics)

    @app.post(
        GENERATIONS,
        summary="Make a cover",
        operation_id="make_cover",
        response_class=Response,
        responses={
            200: {
                "description": "one file, or JSON with rows and links",
                "content": {
                    "audio/*": {"schema": {"type": "string", "format": "binary"}},
                    "application/json": {"schema": openapi.GENERATION},
                },
            },
            202: {
                "description": "async: what to ask for",
                "content": {"application/json": {"schema": openapi.GENERATION}},
            },
            **openapi.problems(400, 401, 403, 404, 408, 409, 413, 415, 421, 422, 429, 503, 507),
        },
        openapi_extra={"requestBody": openapi.request_body()},
    )
    async def generate(request: Request) -> Response:
        owner, admission = owner_of(request), app.state.admission
        began = time.monotonic()
        if request.headers.get("content-type", "").lower().startswith("multipart/"):
            announced = request.headers.get("content-length", "")
            await asyncio.to_thread(admission.store.quota.look)
            admission.store.quota.demand(int(announced) if announced.isdigit() else 0)
        body = await read_body(request, admission.spec.limits)
        request.state.given = body.given
        wants_json = _wants_json(request, body)
        uploads = {n: SentFile(file.filename or n, file.file) for n, file in body.files.items()}
        try:
            generation = await admission.submit(
                body.params, body.config, owner, uploads.get("src_audio"), uploads.get("reference_audio")
            )
        finally:
            for file in body.files.values():
                await file.close()  # else its copy lies in the temporary folder until the cover is made
            request.scope[HELD].release()
        if body.later:
            return JSONResponse(as_json(generation, admission.scheduler), 202, {"Location": _url(generation)})
        with (
            _kept_open(app, admission, generation),
            admission.store.quota.holding(*admission.store.names_of(generation.request)),
        ):
            try:
                rows = await while_connected(request, admission.wait(generation))
            except (asyncio.CancelledError, ClientDisconnect):
                admission.scheduler.cancel(generation)
                raise
            finally:
                app.state.metrics.covers.labels(generation.status).inc(len(generation.request.covers))
            app.state.metrics.seconds.observe(time.monotonic() - began)
            if wants_json:
                return JSONResponse(as_json(generation, admission.scheduler))
            return await _file(admission, generation, rows[0])

    @app.get(
        f"{GENERATIONS}/{{id}}",
        summary="How far a generation is, and what came of it",
        operation_id="get_generation",
        responses=openapi.replies(openapi.GENERATION, 401, 403, 404, 421, 422, 429),
    )
    async def generation(id: str, request: Request) -> JSONResponse:
        generation = await _found(app, id, owner_of(request))
        return JSONResponse(as_json(generation, app.state.admission.scheduler))

    @app.delete(
        f"{GENERATIONS}/{{id}}",
        summary="Cancel a generation; one that is over stays as it is",
        operation_id="cancel_generation",
        responses=openapi.replies(openapi.GENERATION, 401, 403, 404, 421, 422, 429),
    )
    async def cancel(id: str, request: Request) -> JSONResponse:
        generation = await _found(app, id, owner_of(request))
        app.state.admission.scheduler.cancel(generation)
        return JSONResponse(as_json(generation, app.state.admission.scheduler))

    @app.get(
        f"{GENERATIONS}/{{id}}/audio/{{number}}",
        summary="A cover's file, counted from 0",
        operation_id="get_audio",
        response_class=Response,
        responses={
            200: {
                "description": "the file",
                "content": {"audio/*": {"schema": {"type": "string", "format": "binary"}}},
            },
            206: {"description": "a part of it"},
            416: {"description": "a part that it does not have"},
            **openapi.problems(400, 401, 403, 404, 409, 410, 415, 413, 421, 422, 429, 503, 507),
        },
    )
    async def audio(id: str, number: int, request: Request) -> Response:
        generation, admission = await _found(app, id, owner_of(request)), app.state.admission
        if not 0 <= number < len(generation.request.covers):
            raise ProblemError(404, "unknown_id", f"there is no cover {number}", "count from 0", "number", number)
        row = generation.rows.get(generation.request.covers[number])
        if row is None:
            raise ProblemError(404, "not_finished", f"cover {number} is not finished", "come again later")
        if row["status"] != "ok":
            raise of_row(row, generation.request.track["source"])
        return await _file(admission, generation, row)

    @app.get(
        "/health", summary="Whether a model is ready", responses=openapi.replies({"type": "object"}, 403, 421, 503)
    )
    async def health() -> JSONResponse:
        scheduler = app.state.admission.scheduler
        state = {"status": "ok", "waiting": len(scheduler.queue), "busy": scheduler.busy, "slots": scheduler.slots}
        state["store"] = kept = scheduler.store.quota.state()
        if kept["short"]:
            state["status"] = SHORT_OF_SPACE
        if not app.state.ready:
            raise ProblemError(503, "unavailable", "no model is ready", "come again", retry_after_s=10)
        return JSONResponse(state)

    @app.get(
        "/v1/models",
        summary="What this service makes covers with",
        responses=openapi.replies({"type": "object"}, 401, 403, 421, 429),
    )
    async def models(request: Request) -> JSONResponse:
        owner_of(request)
        model, spec = app.state.admission.model, app.state.admission.spec
        entry = {
            "id": model.name,
            "object": "model",
            "fingerprint": model.fingerprint,
            "turbo": model.is_turbo,
            "dtype": model.dtype,
            "language_model": spec.language_model,
            "limits": vars(spec.limits),
            "store": vars(spec.store),
            "note": ABOUT if model.name in VARIANTS else "",
        }
        return JSONResponse({"object": "list", "data": [entry]})

    @app.get(
        "/metrics",
        summary="For Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **openapi.problems(401, 403, 421, 429)},
    )
    async def metrics(request: Request) -> Response:
        owner_of(request)
        return Response(app.state.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/openapi.json", include_in_schema=False)
    async def document() -> Response:
        nonlocal written
        written = written or json.dumps(app.openapi()).encode()
        return Response(written, media_type="application/json")

    return app


async def _tidy(app: FastAPI) -> None:
    """Keep the service's files within their limits; runs forever."""
    while True:
        try:
            await asyncio.to_thread(app.state.admission.store.tidy)
            if page_files := getattr(app.state, "page_files", None):
                await asyncio.to_thread(page_files.tidy)
        except (OSError, RestyleError) as error:
            log.error("the output folder cannot be tidied: %s", error)
        await asyncio.sleep(TIDY_S)


@contextmanager
def _kept_open(app: FastAPI, admission: Admission, generation: Generation) -> Iterator[None]:
    """Count a request that waits for its covers.

    Raises:
        ProblemError: 429 too many requests wait. The queue does not bound them, since many may share one cover.
    """
    if app.state.waiting >= MAX_OPEN:
        admission.scheduler.cancel(generation)
        raise ProblemError(
            429,
            "busy",
            f"{app.state.waiting} requests are kept open already",
            "send async true, which is answered at once",
            retry_after_s=admission.scheduler.retry_after_s(),
        )
    app.state.waiting += 1
    try:
        yield
    finally:
        app.state.waiting -= 1


async def _look(app: FastAPI, ready: Ready) -> None:
    """Poll whether a model is ready, so that /health answers from memory; runs forever."""
    while True:
        try:
            app.state.ready = await asyncio.wait_for(ready(), LOOKS_S)
        except Exception as error:
            log.warning("whether a model is ready cannot be told: %s", error)
            app.state.ready = False
        await asyncio.sleep(LOOK_S)


async def _file(admission: Admission, generation: Generation, row: Mapping[str, Any]) -> Response:
    """A cover's file, streamed from a local folder.

    Raises:
        ProblemError: 410 the file was removed.
    """
    headers, kind = audio_headers(generation, row), media_type(generation)
    if admission.store.store.is_local:
        return StoredFileResponse(admission.store, row["audio_path"], headers=headers, media_type=kind)
    try:
        content = await asyncio.to_thread(admission.store.audio, row)
    except FileNotFoundError:
        raise gone() from None
    return Response(content, headers=headers, media_type=kind)


async def _found(app: FastAPI, generation_id: str, owner: str) -> Generation:
    if not re.fullmatch(r"[\w-]{8,64}", generation_id, re.ASCII):
        raise ProblemError(
            404, "unknown_id", "there is no generation with this id", "ask for one first", "id", generation_id
        )
    generation: Generation = await app.state.admission.scheduler.find(generation_id, owner)
    return generation


def _wants_json(request: Request, body: Body) -> bool:
    """Whether the reply is JSON, by ``response_format`` or the Accept header.

    Raises:
        ProblemError: 422 an audio reply is requested for several covers.
    """
    accept = request.headers.get("accept", "*/*")
    several = isinstance(body.config.batch_size, int) and body.config.batch_size > 1
    if body.reply == "audio" and several and not body.later:
        raise ProblemError(
            422,
            "invalid_value",
            f"batch_size {body.config.batch_size} makes several files and response_format audio holds one",
            "use response_format json, or batch_size 1",
            "response_format",
            "audio",
        )
    if body.reply is not None:
        return body.reply == "json"
    return several or ("application/json" in accept and "audio/" not in accept)


def _url(generation: Generation) -> str:
    return f"{GENERATIONS}/{generation.request.id}"
