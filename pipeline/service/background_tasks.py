"""Background tasks of the HTTP application; each runs until it is cancelled."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fastapi import FastAPI

from acestep.errors import RestyleError

log = logging.getLogger(__name__)
TIDY_S = 5.0
LOOK_S, LOOKS_S = 1.0, 10.0  # interval between two checks of the models, and timeout of one
Ready = Callable[[], Awaitable[bool]]


async def tidy_files(app: FastAPI) -> None:
    """Keep the service's files within their limits."""
    while True:
        try:
            await asyncio.to_thread(app.state.admission.store.tidy)
            if page_files := getattr(app.state, "page_files", None):
                await asyncio.to_thread(page_files.tidy)
        except (OSError, RestyleError) as error:
            log.error("the output folder cannot be tidied: %s", error)
        await asyncio.sleep(TIDY_S)


async def poll_readiness(app: FastAPI, ready: Ready) -> None:
    """Poll whether a model is ready, so that /health answers from memory."""
    while True:
        try:
            app.state.ready = await asyncio.wait_for(ready(), LOOKS_S)
        except Exception as error:
            log.warning("whether a model is ready cannot be told: %s", error)
            app.state.ready = False
        await asyncio.sleep(LOOK_S)
