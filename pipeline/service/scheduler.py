"""The desk: takes orders, lets them wait in the order they came, hands them to the engine, keeps their results.

Everything here runs in one event loop. What waits for the same track goes to the engine together, since its
conditions and common first steps are then computed once; what two orders both ask for is made once.
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
from pipeline.service.problem_details import UNAVAILABLE, ProblemError

log = logging.getLogger(__name__)
Make = Callable[[dict[str, Any]], AsyncGenerator[dict[str, Any], None]]
MAX_TOGETHER = 8  # items of one track that go to the engine at once: the others' turn comes before more of them
MAX_REMEMBERED = 1_000  # finished orders in memory; older ones are read from the store
PAUSE_S = 1.0  # before a request is tried again whose replica died


@dataclass
class QueuedItem:
    """One item on its way; ``wanted`` by so many orders."""

    item: dict[str, Any]
    track: dict[str, Any]
    row: asyncio.Future[dict[str, Any]]
    wanted: int = 0
    step: int = 0
    steps: int = 0
    running: bool = False

    @property
    def kin(self) -> str:
        """Equal for items that a worker makes together."""
        return json.dumps(self.track, sort_keys=True)


@dataclass
class Generation:
    """An order at the desk, until all of its items are done."""

    order: GenerationRequest
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
    """Orders in, results out.

    make: the engine; slots: how many tracks it takes at once; waiting: items that may wait; tries: how often an
    item is handed over whose replica dies.
    """

    def __init__(self, make: Make, shelf: GenerationStore, slots: int, waiting: int, tries: int):
        self.make, self.shelf = make, shelf
        self.slots, self.max_waiting, self.tries = slots, waiting, tries
        self.queue: OrderedDict[str, QueuedItem] = OrderedDict()
        self.jobs: dict[str, QueuedItem] = {}
        self.tickets: OrderedDict[str, Generation] = OrderedDict()
        self.running: set[asyncio.Task[None]] = set()
        self.busy = 0
        self.seconds_per_item = 30.0  # a moving mean, for Retry-After

    async def resume(self) -> int:
        """Go on with the orders that an earlier run left open; how many there are."""
        orders = await asyncio.to_thread(lambda: list(self.shelf.left_open()))
        for order in orders:
            await self._take(order, limited=False)
        return len(orders)

    async def take(self, order: GenerationRequest) -> Generation:
        """Accept an order.

        Raises:
            Problem: 429 where too many items wait already.
        """
        return await self._take(order, limited=True)

    async def _take(self, order: GenerationRequest, limited: bool) -> Generation:
        files = self.shelf.names_of(order)
        self.shelf.room.hold(*files)  # until the order is over
        looking = asyncio.ensure_future(asyncio.to_thread(self._known, order))
        try:
            found = await asyncio.shield(looking)
            ticket = self._placed(order, found, limited)
        except BaseException:
            await asyncio.shield(self._start(self._refused(order, looking)))
            raise
        self._start(self._follow(ticket))
        self._start(asyncio.to_thread(self.shelf.room.make_way))
        self._dispatch()
        return ticket

    async def _refused(self, order: GenerationRequest, looking: asyncio.Future[Any]) -> None:
        """Forget an order that is not taken, once nothing is written for it any more."""
        try:
            await asyncio.wait([looking])
            await asyncio.to_thread(self.shelf.dropped, order)
        except OSError as error:
            log.warning("%s: its record cannot be removed: %s", order.id, error)
        finally:
            self.shelf.room.release(*self.shelf.names_of(order))

    def _placed(self, order: GenerationRequest, found: dict[str, dict[str, Any]], limited: bool) -> Generation:
        # Nothing is awaited here, so that what is counted is what is queued.
        items = {item["item_id"]: item for item in order.track["items"]}
        new = [item_id for item_id in items if item_id not in found and item_id not in self.jobs]
        if limited and len(self.queue) + len(new) > self.max_waiting:
            raise ProblemError(
                429,
                "busy",
                f"{len(self.queue)} covers wait already, and {len(new)} more would be beyond {self.max_waiting}",
                "come again later, or ask for fewer at once",
                retry_after_s=self.retry_after_s(),
            )
        if new:
            self.shelf.room.promise(dict.fromkeys(new, size_of(order)), refuse=limited)
        track = {name: value for name, value in order.track.items() if name != "items"}
        for item_id in new:
            row = asyncio.get_running_loop().create_future()
            self.jobs[item_id] = self.queue[item_id] = QueuedItem(items[item_id], track, row)
        jobs = {item_id: self.jobs[item_id] for item_id in items if item_id not in found}
        ticket = self.tickets[order.id] = Generation(order, jobs, found)
        for job in jobs.values():
            job.wanted += 1
        return ticket

    def _known(self, order: GenerationRequest) -> dict[str, dict[str, Any]]:
        self.shelf.room.look()
        self.shelf.room.settle(*self.shelf.names_of(order))
        self.shelf.room.used(*self.shelf.names_of(order))
        rows = {item_id: self.shelf.row(order.track["track_id"], item_id) for item_id in order.item_ids}
        if not all(rows.values()):
            self.shelf.opened(order)
        return {item_id: row for item_id, row in rows.items() if row is not None}

    def retry_after_s(self) -> int:
        """When a place may be free, in seconds."""
        return max(1, min(round(self.seconds_per_item * (len(self.queue) + 1) / self.slots), 3600))

    async def find(self, order_id: str, owner: str) -> Generation:
        """An order by its id.

        Raises:
            Problem: 404 where there is none, or it is somebody else's.
        """
        ticket = self.tickets.get(order_id)
        if ticket is None and (known := await asyncio.to_thread(self.shelf.order, order_id)):
            ticket = Generation(known[0], {}, known[1])
            ticket.cancelled = any(row.get("error_kind") == "cancelled" for row in known[1].values())
            ticket.over.set()
        if ticket is None or ticket.order.owner != owner:
            raise ProblemError(
                404, "unknown_id", "there is no generation with this id", "ask for one first", "id", order_id
            )
        return ticket

    def cancel(self, ticket: Generation) -> None:
        """Let go of an order; what no other order wants is not made, or left at its next step."""
        if ticket.over.is_set() or ticket.cancelled:
            return
        ticket.cancelled = True
        for job in ticket.jobs.values():
            self._unwanted(job)

    def _unwanted(self, job: QueuedItem) -> None:
        job.wanted -= 1
        item_id = job.item["item_id"]
        if job.wanted == 0 and not job.row.done() and self.queue.pop(item_id, None) is not None:
            self._done(job, _failed(job, "cancelled", "nobody waits for it any more"))

    async def _follow(self, ticket: Generation) -> None:
        """Gather an order's rows, and write down how it ended."""
        for item_id, job in ticket.jobs.items():
            ticket.rows[item_id] = await asyncio.shield(job.row)
        try:
            await asyncio.to_thread(self.shelf.closed, ticket.order, ticket.rows)
        except OSError as error:
            log.warning("%s: its record cannot be written: %s", ticket.order.id, error)
        ticket.over.set()
        self.shelf.room.release(*self.shelf.names_of(ticket.order))
        done = [order_id for order_id, known in self.tickets.items() if known.over.is_set()]
        for order_id in done[: max(len(done) - MAX_REMEMBERED, 0)]:
            del self.tickets[order_id]

    def _dispatch(self) -> None:
        """Hand the queue's first to the engine, and with it what waits for the same track."""
        while self.queue and self.busy < self.slots:
            first = next(iter(self.queue.values()))
            jobs = [job for job in self.queue.values() if job.kin == first.kin][:MAX_TOGETHER]
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
                self._done(job, _failed(job, UNAVAILABLE, "the model's process was lost; send the request again"))
            self.busy -= 1
            taken = (time.monotonic() - began) / len(jobs)
            self.seconds_per_item += 0.2 * (taken - self.seconds_per_item)
            self._dispatch()

    async def _made(self, jobs: list[QueuedItem]) -> None:
        """One call of the engine with the jobs that are not done.

        Raises:
            RayError: its replica was lost.
        """
        missing = {job.item["item_id"]: job for job in _missing(jobs)}
        async with aclosing(self.make(jobs[0].track | {"items": [job.item for job in missing.values()]})) as news:
            async for told in news:
                if "row" in told:
                    await asyncio.to_thread(self.shelf.made, told["row"])
                    self._done(missing[told["row"]["item_id"]], told["row"])
                else:
                    job = missing[told["item_id"]]
                    job.step, job.steps = told["step"], told["steps"]
                if not any(job.wanted for job in _missing(jobs)):
                    for job in _missing(jobs):
                        self._done(job, _failed(job, "cancelled", "nobody waits for it any more"))
                    return

    def _done(self, job: QueuedItem, row: dict[str, Any]) -> None:
        self.jobs.pop(job.item["item_id"], None)
        self.shelf.room.fulfil(job.item["item_id"])
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
