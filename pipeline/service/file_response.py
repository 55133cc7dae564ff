"""The HTTP response with a cover's file."""

import asyncio
import weakref
from collections.abc import Mapping
from typing import Any

from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from pipeline.service.generation_store import GenerationStore
from pipeline.service.problem_details import ProblemError
from pipeline.service.responses import audio_headers, media_type
from pipeline.service.scheduler import Generation


class StoredFileResponse(FileResponse):
    """A cover's file, held in the quota while a client reads it."""

    def __init__(self, store: GenerationStore, name: str, headers: dict[str, str], media_type: str):
        super().__init__(store.store.path(name), headers=headers, media_type=media_type)
        self.store, self.name = store, name
        store.quota.hold(name)
        self.release = weakref.finalize(self, store.quota.release, name)  # also if the response is never sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":  # ranges are defined for GET only
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"range"]}
        try:
            if await asyncio.to_thread(self.store.has, self.name):
                await super().__call__(scope, receive, send)
                return
        finally:
            self.release()
        problem = ProblemError("gone")
        await JSONResponse(problem.as_json(), problem.status)(scope, receive, send)


async def audio_response(store: GenerationStore, generation: Generation, row: Mapping[str, Any]) -> Response:
    """The response with a cover's file, streamed if it is local.

    Raises:
        ProblemError: 410 the file was removed.
    """
    headers, kind = audio_headers(generation, row), media_type(generation)
    if store.store.is_local:
        return StoredFileResponse(store, row["audio_path"], headers=headers, media_type=kind)
    try:
        content = await asyncio.to_thread(store.audio, row)
    except FileNotFoundError:
        raise ProblemError("gone") from None
    return Response(content, headers=headers, media_type=kind)
