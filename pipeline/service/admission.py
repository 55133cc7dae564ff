"""Admission: checks a request, admits its sources, and submits it to the scheduler; for HTTP and the page."""

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from acestep.generation.params import GenerationConfig, GenerationParams
from pipeline.planning.items import ModelFacts
from pipeline.service.config import ServiceSpec
from pipeline.service.generation_request import (
    CheckedRequest,
    GenerationRequest,
    check_parameters,
    make_generation_request,
)
from pipeline.service.generation_store import GenerationStore
from pipeline.service.problem_details import ProblemError, of_row, storage_failure
from pipeline.service.scheduler import Generation, Scheduler
from pipeline.service.source_access import AdmittedSource, admit, is_address, upload
from pipeline.service.uploads import RequestUploads, UploadStore

log = logging.getLogger(__name__)
READERS = 8  # sources that are hashed and probed concurrently
FETCHERS = 32  # sources that are fetched concurrently; apart from the readers, since other hosts may be slow


@dataclass(frozen=True)
class SentFile:
    """An open uploaded file and its name at the client."""

    name: str
    file: BinaryIO


class Admission:
    """Checks requests, admits their sources and submits them."""

    def __init__(self, spec: ServiceSpec, model: ModelFacts, store: GenerationStore, scheduler: Scheduler):
        self.spec, self.model, self.store, self.scheduler = spec, model, store, scheduler
        self.uploads = UploadStore(store.store, spec.output, store.quota)
        self.readers = ThreadPoolExecutor(READERS, "read")
        self.fetchers = ThreadPoolExecutor(FETCHERS, "fetch")

    def look_at(self, params: GenerationParams, config: GenerationConfig) -> CheckedRequest:
        """Check the parameters of a request, without its source.

        Raises:
            RequestError, ProblemError: see ``generation_request.check_parameters``.
        """
        return check_parameters(params, config, self.model, self.spec.limits)

    async def submit(
        self,
        params: GenerationParams,
        config: GenerationConfig,
        owner: str = "",
        source: SentFile | None = None,
        reference: SentFile | None = None,
    ) -> Generation:
        """Submit a request; see ``prepared``.

        Raises:
            RequestError, ProblemError: the request or its source cannot be served; 429 when the queue is full; 507
                without disk space for the covers.
        """
        async with self.prepared(params, config, owner, source, reference) as request:
            return await self.scheduler.take(request)

    @asynccontextmanager
    async def prepared(
        self,
        params: GenerationParams,
        config: GenerationConfig,
        owner: str = "",
        source: SentFile | None = None,
        reference: SentFile | None = None,
    ) -> AsyncIterator[GenerationRequest]:
        """Prepare a request without submitting it. Its uploads are held for the block and removed if it fails.

        Args:
            source, reference: uploads that replace the paths in ``params``.

        Raises:
            RequestError, ProblemError: the request or its source cannot be served.
        """
        self.look_at(params, config)
        request_uploads = RequestUploads(self.store.quota)
        uploads, refused = replace(self.uploads, request_uploads=request_uploads), True
        try:
            admitted = await self._admitted("src_audio", params.src_audio, source, uploads)
            timbre = None
            if reference is not None or params.reference_audio:
                timbre = await self._admitted("reference_audio", params.reference_audio, reference, uploads)
            request = await asyncio.to_thread(
                make_generation_request,
                params,
                config,
                admitted,
                timbre,
                self.model,
                self.spec.limits,
                owner,
            )
            yield request
            refused = False
        except OSError as error:
            log.error("storage failed: %s", error)
            raise storage_failure(error) from error
        finally:
            await asyncio.shield(asyncio.to_thread(request_uploads.end, refused))

    async def _admitted(
        self, field: str, value: str | None, sent: SentFile | None, uploads: UploadStore
    ) -> AdmittedSource:
        threads = self.fetchers if sent is None and is_address(value or "") else self.readers
        return await asyncio.get_running_loop().run_in_executor(threads, self._admit, field, value, sent, uploads)

    def _admit(self, field: str, value: str | None, sent: SentFile | None, uploads: UploadStore) -> AdmittedSource:
        limits = self.spec.limits
        if sent is not None:
            return upload(field, sent.file, sent.name, limits, uploads)
        if not value:
            raise ProblemError("missing_field", remedy="send a file, a path or an address", field=field)
        return admit(field, value, self.spec.access, limits, uploads)

    async def wait(self, generation: Generation) -> list[dict[str, Any]]:
        """Wait for the rows of a generation's covers.

        Raises:
            ProblemError: a cover failed, or ``limits.wait_s`` passed.
        """
        try:
            await asyncio.wait_for(generation.over.wait(), self.spec.limits.wait_s)
        except TimeoutError:
            reason = f"not finished within {self.spec.limits.wait_s:g} s"
            remedy = f"it goes on: ask for /v1/audio/generations/{generation.request.id}"
            raise ProblemError(
                "still_under_way", reason, remedy, retry_after_s=self.scheduler.retry_after_s()
            ) from None
        rows = [generation.rows[item_id] for item_id in generation.request.covers]
        failed = next((row for row in rows if row["status"] != "ok"), None)
        if failed is not None:
            raise of_row(failed, generation.request.track["source"])
        return rows
