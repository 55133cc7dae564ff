"""The scheduler: queues requests in order, hands items to the engine, and stores the results.

Everything runs in one event loop. Queued items of the same track go to the engine together, which computes their
conditions and common first steps once; an item of several requests is made once.
"""

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import RayError

from pipeline.service.generation_request import GenerationRequest
from pipeline.service.generation_store import GenerationStore, size_of
from pipeline.service.problem_details import ProblemError

log = logging.getLogger(__name__)
Make = Callable[[dict[str, Any]], AsyncGenerator[dict[str, Any], None]]
MAX_TOGETHER = 8  # items of one track per call, so that other tracks get their turn
MAX_REMEMBERED = 1_000  # finished generations in memory; older ones are read from the store
PAUSE_S = 1.0  # before a call is repeated whose replica died


@dataclass
class QueuedItem:
    """Queued item with a reference count of requests."""

    item: dict[str, Any]
    track: dict[str, Any]
    row: asyncio.Future[dict[str, Any]]
    references: int = 0
    step: int = 0
    steps: int = 0
    running: bool = False

    @property
    def batch_key(self) -> str:
        """Batching key: equal for items that a worker makes together."""
        return json.dumps(self.track, sort_keys=True)


@dataclass
class Generation:
    """A request at the scheduler, until all of its items are done."""

    request: GenerationRequest
    jobs: dict[str, QueuedItem]
    rows: dict[str, dict[str, Any]]
    cancelled: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def status(self) -> str:
        """queued, running, done, failed or cancelled."""
        if self.cancelled:
            return "cancelled"
        if self.over.is_set():
            return "failed" if any(row["status"] != "ok" for row in self.rows.values()) else "done"
        return "running" if self.rows or any(job.running for job in self.jobs.values()) else "queued"


class Scheduler:
    """Schedules requests on the engine.

    make: the engine; slots: concurrent calls; waiting: maximum of queued items; tries: calls per item if replicas
    die.
    """

    def __init__(self, make: Make, store: GenerationStore, slots: int, waiting: int, tries: int):
        self.make, self.store = make, store
        self.slots, self.max_waiting, self.tries = slots, waiting, tries
        self.queue: OrderedDict[str, QueuedItem] = OrderedDict()
        self.jobs: dict[str, QueuedItem] = {}
        self.generations: OrderedDict[str, Generation] = OrderedDict()
        self.running: set[asyncio.Task[None]] = set()
        self.busy = 0
        self.seconds_per_item = 30.0  # moving average, for Retry-After

    async def resume(self) -> int:
        """Resume the requests that an earlier run left open; returns their number."""
        requests = await asyncio.to_thread(lambda: list(self.store.left_open()))
        for request in requests:
            await self._take(request, limited=False)
        return len(requests)

    async def take(self, request: GenerationRequest) -> Generation:
        """Accept a request.

        Raises:
            ProblemError: 429 when the queue is full.
        """
        return await self._take(request, limited=True)

    async def _take(self, request: GenerationRequest, limited: bool) -> Generation:
        files = self.store.names_of(request)
        self.store.quota.hold(*files)  # until the request is done
        looking = asyncio.ensure_future(asyncio.to_thread(self._known, request))
        try:
            found = await asyncio.shield(looking)
            generation = self._placed(request, found, limited)
        except BaseException:
            await asyncio.shield(self._start(self._refused(request, looking)))
            raise
        self._start(self._follow(generation))
        self._start(asyncio.to_thread(self.store.quota.evict))
        self._dispatch()
        return generation

    async def _refused(self, request: GenerationRequest, looking: asyncio.Future[Any]) -> None:
        """Clean up after a request that was not accepted, once its record is written."""
        try:
            await asyncio.wait([looking])
            await asyncio.to_thread(self.store.dropped, request)
        except OSError as error:
            log.warning("%s: its record cannot be removed: %s", request.id, error)
        finally:
            self.store.quota.release(*self.store.names_of(request))

    def _placed(self, request: GenerationRequest, found: dict[str, dict[str, Any]], limited: bool) -> Generation:
        # No await in this function, so that the counted queue is the actual one.
        items = {item["item_id"]: item for item in request.track["items"]}
        new = [item_id for item_id in items if item_id not in found and item_id not in self.jobs]
        if limited and len(self.queue) + len(new) > self.max_waiting:
            raise ProblemError(
                "busy",
                f"{len(self.queue)} covers wait already, and {len(new)} more would be beyond {self.max_waiting}",
                "come again later, or ask for fewer at once",
                retry_after_s=self.retry_after_s(),
            )
        if new:
            self.store.quota.reserve(dict.fromkeys(new, size_of(request)), refuse=limited)
        track = {name: value for name, value in request.track.items() if name != "items"}
        for item_id in new:
            row = asyncio.get_running_loop().create_future()
            self.jobs[item_id] = self.queue[item_id] = QueuedItem(items[item_id], track, row)
        jobs = {item_id: self.jobs[item_id] for item_id in items if item_id not in found}
        generation = self.generations[request.id] = Generation(request, jobs, found)
        for job in jobs.values():
            job.references += 1
        return generation

    def _known(self, request: GenerationRequest) -> dict[str, dict[str, Any]]:
        self.store.quota.look()
        self.store.quota.wait_for_removals(*self.store.names_of(request))
        self.store.quota.used(*self.store.names_of(request))
        rows = {item_id: self.store.row(request.track["track_id"], item_id) for item_id in request.item_ids}
        if not all(rows.values()):
            self.store.opened(request)
        return {item_id: row for item_id, row in rows.items() if row is not None}

    def retry_after_s(self) -> int:
        """Estimated seconds until a slot is free."""
        return max(1, min(round(self.seconds_per_item * (len(self.queue) + 1) / self.slots), 3600))

    async def find(self, generation_id: str, owner: str) -> Generation:
        """A generation by its id.

        Raises:
            ProblemError: 404 unknown, or of another owner.
        """
        generation = self.generations.get(generation_id)
        if generation is None and (known := await asyncio.to_thread(self.store.finished, generation_id)):
            generation = Generation(known[0], {}, known[1])
            generation.cancelled = any(row.get("error_kind") == "cancelled" for row in known[1].values())
            generation.over.set()
        if generation is None or generation.request.owner != owner:
            raise ProblemError("unknown_id", "is no generation", "ask for one first", "id", generation_id)
        return generation

    def cancel(self, generation: Generation) -> None:
        """Cancel a generation; items of no other request are dropped, or stopped at their next step."""
        if generation.over.is_set() or generation.cancelled:
            return
        generation.cancelled = True
        for job in generation.jobs.values():
            self._unwanted(job)

    def _unwanted(self, job: QueuedItem) -> None:
        job.references -= 1
        item_id = job.item["item_id"]
        if job.references == 0 and not job.row.done() and self.queue.pop(item_id, None) is not None:
            self._done(job, _failed(job, "cancelled", "cancelled by the client"))

    async def _follow(self, generation: Generation) -> None:
        """Collect a generation's rows, and record its end."""
        for item_id, job in generation.jobs.items():
            generation.rows[item_id] = await asyncio.shield(job.row)
        try:
            await asyncio.to_thread(self.store.closed, generation.request, generation.rows)
        except OSError as error:
            log.warning("%s: its record cannot be written: %s", generation.request.id, error)
        generation.over.set()
        self.store.quota.release(*self.store.names_of(generation.request))
        done = [generation_id for generation_id, known in self.generations.items() if known.over.is_set()]
        for generation_id in done[: max(len(done) - MAX_REMEMBERED, 0)]:
            del self.generations[generation_id]

    def _dispatch(self) -> None:
        """Hand the first item of the queue to the engine, together with others of its track."""
        while self.queue and self.busy < self.slots:
            first = next(iter(self.queue.values()))
            jobs = [job for job in self.queue.values() if job.batch_key == first.batch_key][:MAX_TOGETHER]
            for job in jobs:
                del self.queue[job.item["item_id"]]
                job.running = True
            self.busy += 1
            self._start(self._run(jobs))

    async def _run(self, jobs: list[QueuedItem]) -> None:
        began = time.monotonic()
        try:
            for attempt in range(1, self.tries + 1):
                try:
                    await self._made(jobs)
                    break
                except RayError as error:
                    log.warning("try %d of %d: %s", attempt, self.tries, str(error).splitlines()[-1])
                    await asyncio.sleep(PAUSE_S)
        except Exception:
            log.exception("%d covers are given up", len(_missing(jobs)))
        finally:
            for job in _missing(jobs):
                self._done(
                    job, _failed(job, "unavailable", "the model's process was lost; send the request again")
                )
            self.busy -= 1
            taken = (time.monotonic() - began) / len(jobs)
            self.seconds_per_item += 0.2 * (taken - self.seconds_per_item)
            self._dispatch()

    async def _made(self, jobs: list[QueuedItem]) -> None:
        """One call of the engine with the unfinished items; raises RayError where the replica is lost."""
        missing = {job.item["item_id"]: job for job in _missing(jobs)}
        track = jobs[0].track | {"items": [job.item for job in missing.values()]}
        async with aclosing(self.make(track)) as events:
            async for event in events:
                if "row" in event:
                    await asyncio.to_thread(self.store.made, event["row"])
                    self._done(missing[event["row"]["item_id"]], event["row"])
                else:
                    job = missing[event["item_id"]]
                    job.step, job.steps = event["step"], event["steps"]
                if not any(job.references for job in _missing(jobs)):
                    for job in _missing(jobs):
                        self._done(job, _failed(job, "cancelled", "cancelled by the client"))
                    return

    def _done(self, job: QueuedItem, row: dict[str, Any]) -> None:
        self.jobs.pop(job.item["item_id"], None)
        self.store.quota.end_reservation(job.item["item_id"])
        if not job.row.done():
            job.row.set_result(row)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return task


def _missing(jobs: Iterable[QueuedItem]) -> list[QueuedItem]:
    return [job for job in jobs if not job.row.done()]


def _failed(job: QueuedItem, kind: str, message: str) -> dict[str, Any]:
    return {
        "item_id": job.item["item_id"],
        "track_id": job.track["track_id"],
        "status": "failed",
        "error_kind": kind,
        "error_message": message,
    }
