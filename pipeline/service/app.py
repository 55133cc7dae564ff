"""The HTTP application: routes, authentication, and errors as problem details."""

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from acestep.checkpoints.demo import ABOUT, VARIANTS
from acestep.constants import NUMERICS_VERSION
from pipeline.service import openapi
from pipeline.service.admission import Admission, SentFile
from pipeline.service.api_keys import ApiKeys
from pipeline.service.background_tasks import Ready, poll_readiness, tidy_files
from pipeline.service.body_limits import HELD, BodyLimitMiddleware, while_connected
from pipeline.service.config import ServiceSpec
from pipeline.service.error_handlers import add_error_handlers
from pipeline.service.file_response import audio_response
from pipeline.service.hosts import parse_origin
from pipeline.service.problem_details import (
    SHORT_OF_SPACE,
    ProblemError,
    of_row,
)
from pipeline.service.prometheus import ServiceMetrics, count_requests
from pipeline.service.request_body import read_body, wants_json
from pipeline.service.responses import EXPOSED, as_json
from pipeline.service.scheduler import Generation
from pipeline.service.security_middleware import SecurityMiddleware, access_rules

log = logging.getLogger(__name__)
GENERATIONS = "/v1/audio/generations"
MAX_OPEN = 1000  # requests that wait for their covers, each with a connection


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
        background = [asyncio.create_task(work) for work in (poll_readiness(app, ready), tidy_files(app))]
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

    add_error_handlers(app)
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
        as_json_reply = wants_json(request, body)
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
            if as_json_reply:
                return JSONResponse(as_json(generation, admission.scheduler))
            return await audio_response(admission.store, generation, rows[0])

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
            raise ProblemError("unknown_id", "is no cover", "count from 0", "number", number)
        row = generation.rows.get(generation.request.covers[number])
        if row is None:
            raise ProblemError("not_finished", f"cover {number} is not finished")
        if row["status"] != "ok":
            raise of_row(row, generation.request.track["source"])
        return await audio_response(admission.store, generation, row)

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
            raise ProblemError("unavailable", "no model is ready", "come again", retry_after_s=10)
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


@contextmanager
def _kept_open(app: FastAPI, admission: Admission, generation: Generation) -> Iterator[None]:
    """Count a waiting request, up to ``MAX_OPEN`` (429): the queue bounds covers, which requests may share."""
    if app.state.waiting >= MAX_OPEN:
        admission.scheduler.cancel(generation)
        reason = f"{app.state.waiting} requests are kept open already"
        remedy = "send async true, which is answered at once"
        raise ProblemError("busy", reason, remedy, retry_after_s=admission.scheduler.retry_after_s())
    app.state.waiting += 1
    try:
        yield
    finally:
        app.state.waiting -= 1


async def _found(app: FastAPI, generation_id: str, owner: str) -> Generation:
    if not re.fullmatch(r"[\w-]{8,64}", generation_id, re.ASCII):
        raise ProblemError("unknown_id", "is no generation", "ask for one first", "id", generation_id)
    generation: Generation = await app.state.admission.scheduler.find(generation_id, owner)
    return generation


def _url(generation: Generation) -> str:
    return f"{GENERATIONS}/{generation.request.id}"
