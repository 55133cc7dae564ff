"""What the page does: place orders at the counter, follow them, show what came of them."""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from gradio.processing_utils import save_bytes_to_cache

from acestep.constants import SEED_LIMIT
from acestep.errors import RequestError
from acestep.generation.params import GenerationConfig, GenerationParams
from acestep.generation.request import pick_seeds
from pipeline.service.admission import Admission, SentFile
from pipeline.service.batch_command import command_of, manifest_of
from pipeline.service.page import text as words
from pipeline.service.page.visitor_files import PAGE
from pipeline.service.problem_details import of_row
from pipeline.service.responses import progress, waiting_before
from pipeline.service.scheduler import Generation

OWNER = "page"  # orders of the page are out of reach of every key
TELL_S = 0.4
TITLES = {"audio_cover_strength": "strength", "guidance_scale": "guidance"}


@dataclass(frozen=True, eq=False)  # Gradio hashes what it keeps for a visitor, and a row has no hash
class PlayerEntry:
    """What the page plays: a cover, or the source, which has no row; ``path`` is "" where it failed.

    controls: what the controls hold to make this cover again, by name.
    """

    title: str
    path: str
    row: Mapping[str, Any]
    error: str = ""
    controls: Mapping[str, Any] = field(default_factory=dict)


async def generate(
    counter: Admission,
    source: str | None,
    requests: Sequence[tuple[str, GenerationParams]],
    config: GenerationConfig,
) -> AsyncGenerator[tuple[str, list[str], list[PlayerEntry]], None]:
    """Place orders and follow them: (status, ids of the orders, source and covers once all are done).

    What is under way when the visitor leaves is cancelled.

    Args:
        source: path of the visitor's file.
        requests: a title and a request each.

    Raises:
        RestyleError: one cannot be served.
    """
    tickets: list[Generation] = []
    room, held = counter.shelf.room, list[str]()
    try:
        for _, params in requests:
            with _opened(source) as file:
                ticket = await counter.order(params, config, OWNER, SentFile(Path(file.name).name, file))
            tickets.append(ticket)
            held += (files := counter.shelf.names_of(ticket.order))
            room.hold(*files)  # until they are shown
        ids = [ticket.order.id for ticket in tickets]
        covers = sum(len(ticket.order.covers) for ticket in tickets)
        over = asyncio.gather(*(ticket.over.wait() for ticket in tickets))
        while not over.done():
            done = sum(item in ticket.rows for ticket in tickets for item in ticket.order.covers)
            share = sum(map(progress, tickets)) / len(tickets)
            yield words.status(done, covers, share, waiting_before(tickets[0], counter.desk)), ids, []
            await asyncio.wait([over], timeout=TELL_S)
        shown = [
            await asyncio.to_thread(
                _shown, counter, ticket, number, title, words.controls_of(params, config, seed)
            )
            for (title, params), ticket in zip(requests, tickets, strict=True)
            for number, seed in enumerate(ticket.order.track["config"]["seeds"])
        ]
    finally:
        for ticket in tickets:
            counter.desk.cancel(ticket)  # one that is over stays as it is
        room.release(*held)
    ended = "cancelled" if all(ticket.cancelled for ticket in tickets) else "done"
    count = sum(not one.error for one in shown)
    told = f"{ended}: {count} of {covers} covers"
    yield told, ids, [PlayerEntry("source", str(source), {}), *shown] if ended == "done" or count else []


def _opened(source: str | None) -> BinaryIO:
    """The visitor's file.

    Raises:
        RequestError: there is none.
    """
    if not source:
        raise RequestError("no source; upload a track first")
    try:
        return Path(source).open("rb")
    except FileNotFoundError:
        raise RequestError("the source is kept for a day and is gone; upload it again") from None


def _shown(
    counter: Admission, ticket: Generation, number: int, title: str, controls: Mapping[str, Any]
) -> PlayerEntry:
    row = ticket.rows[ticket.order.covers[number]]
    if row["status"] != "ok":
        cancelled = row["error_kind"] == "cancelled"
        said = "cancelled" if cancelled else str(of_row(row, ticket.order.track["source"]))
        return PlayerEntry(title or "cover", "", row, said)
    title = ", ".join(filter(None, [title, f"seed {row['seed']}"]))
    name = f"{title}.{ticket.order.extension}"
    path = save_bytes_to_cache(counter.shelf.audio(row), name, str(counter.shelf.scratch / PAGE))
    return PlayerEntry(title, path, row, controls=controls)


async def cancel(counter: Admission, ids: Sequence[str]) -> str:
    """Cancel orders of this visitor; those that are over stay as they are."""
    for order_id in ids:
        counter.desk.cancel(await counter.desk.find(order_id, OWNER))
    return "cancelling" if ids else "nothing is under way"


def grid_requests(
    params: GenerationParams, axes: Mapping[str, Sequence[float]]
) -> list[tuple[str, GenerationParams]]:
    """A request for each cell of a grid, guidance by guidance, with a title."""
    names = sorted(axes)[::-1]  # guidance down, strength across
    requests = []
    for values in itertools.product(*(axes[name] for name in names)):
        point: dict[str, Any] = dict(zip(names, values, strict=True))
        title = ", ".join(f"{TITLES[name]} {value:g}" for name, value in sorted(point.items()))
        requests.append((title, replace(params, **point)))
    return requests


def one_seed(params: GenerationParams) -> GenerationParams:
    """A request with its seed drawn, so that the cells of a grid differ in nothing else."""
    return replace(params, seed=pick_seeds(params.seed, GenerationConfig(1))[0])


async def heard_seeds(counter: Admission, ids: Sequence[str]) -> list[int]:
    """The seeds of a visitor's latest orders, each once."""
    tickets = [await counter.desk.find(order_id, OWNER) for order_id in ids]
    return list(dict.fromkeys(seed for ticket in tickets for seed in ticket.order.track["config"]["seeds"]))


def as_many(seeds: Sequence[int], count: int) -> list[int]:
    """The first ``count`` seeds; where there are fewer, those that follow the last one."""
    following = (seed % SEED_LIMIT for seed in itertools.count(seeds[-1] + 1))
    new = (seed for seed in following if seed not in seeds)
    return list(itertools.islice(itertools.chain(seeds, new), count))


async def batch_command(
    counter: Admission,
    source: str | None,
    params: GenerationParams,
    config: GenerationConfig,
    axes: Mapping[str, Sequence[float]] | None,
    heard: Sequence[int] = (),
) -> str:
    """The command that makes the same covers as a catalogue job; its manifest of this one track is written.

    Args:
        heard: seeds of what stands on the page, which are those of the command where the request names none.

    Raises:
        RestyleError: the request cannot be served, or is no catalogue's.
    """
    if params.seed < 0 and heard:
        config = replace(config, seeds=as_many(heard, config.batch_size))
    with _opened(source) as file:
        sent = SentFile(Path(file.name).name, file)
        async with counter.prepared(params, config, OWNER, sent) as order:
            # A tenth of a second tells the commands of one visitor apart.
            name = f"batches/{order.track['track_id']}-{time.time_ns() // 10**8}"
            manifest, output = (counter.keep.uri(f"{name}/{part}") for part in ("manifest.csv", "out"))
            seeds = order.track["config"]["seeds"]
            command = command_of(manifest, output, counter.spec, params, config, seeds, axes)
            await asyncio.to_thread(counter.shelf.batch, name, manifest_of(order.track), order)
            return command
