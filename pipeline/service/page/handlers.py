"""Actions of the page: submit requests at the admission, follow them, and show the results."""

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

OWNER = "page"  # no API key can reach the page's generations
TELL_S = 0.4
TITLES = {"audio_cover_strength": "strength", "guidance_scale": "guidance"}


@dataclass(frozen=True, eq=False)  # Gradio hashes its state, and a row is not hashable
class PlayerEntry:
    """An audio player on the page: a cover, or the source, which has no row; ``path`` is "" for a failed cover.

    controls: values of the controls that make this cover again, by name.
    """

    title: str
    path: str
    row: Mapping[str, Any]
    error: str = ""
    controls: Mapping[str, Any] = field(default_factory=dict)


async def generate(
    admission: Admission,
    source: str | None,
    requests: Sequence[tuple[str, GenerationParams]],
    config: GenerationConfig,
) -> AsyncGenerator[tuple[str, list[str], list[PlayerEntry]], None]:
    """Submit requests and follow them: yields (status, generation ids, source and covers at the end).

    Unfinished generations are cancelled when the visitor leaves.

    Args:
        source: path of the visitor's file.
        requests: pairs of a title and a request.

    Raises:
        RestyleError: a request cannot be served.
    """
    generations: list[Generation] = []
    quota, held = admission.store.quota, list[str]()
    try:
        for _, params in requests:
            with _opened(source) as file:
                generation = await admission.submit(params, config, OWNER, SentFile(Path(file.name).name, file))
            generations.append(generation)
            held += (files := admission.store.names_of(generation.request))
            quota.hold(*files)  # until they are copied for the page
        ids = [generation.request.id for generation in generations]
        covers = sum(len(generation.request.covers) for generation in generations)
        over = asyncio.gather(*(generation.over.wait() for generation in generations))
        while not over.done():
            done = sum(item in generation.rows for generation in generations for item in generation.request.covers)
            share = sum(map(progress, generations)) / len(generations)
            yield words.status(done, covers, share, waiting_before(generations[0], admission.scheduler)), ids, []
            await asyncio.wait([over], timeout=TELL_S)
        shown = [
            await asyncio.to_thread(
                _shown, admission, generation, number, title, words.controls_of(params, config, seed)
            )
            for (title, params), generation in zip(requests, generations, strict=True)
            for number, seed in enumerate(generation.request.track["config"]["seeds"])
        ]
    finally:
        for generation in generations:
            admission.scheduler.cancel(generation)  # no effect on finished ones
        quota.release(*held)
    ended = "cancelled" if all(generation.cancelled for generation in generations) else "done"
    count = sum(not one.error for one in shown)
    summary = f"{ended}: {count} of {covers} covers"
    yield summary, ids, [PlayerEntry("source", str(source), {}), *shown] if ended == "done" or count else []


def _opened(source: str | None) -> BinaryIO:
    """Open the visitor's file; raises RequestError where there is none."""
    if not source:
        raise RequestError("missing_field", "is not given", "upload a track first", "source")
    try:
        return Path(source).open("rb")
    except FileNotFoundError:
        raise RequestError("missing_file", "is kept for a day and is gone", "upload it again", "source") from None


def _shown(
    admission: Admission, generation: Generation, number: int, title: str, controls: Mapping[str, Any]
) -> PlayerEntry:
    row = generation.rows[generation.request.covers[number]]
    if row["status"] != "ok":
        cancelled = row["error_kind"] == "cancelled"
        said = "cancelled" if cancelled else of_row(row, generation.request.track["source"]).message
        return PlayerEntry(title or "cover", "", row, said)
    title = ", ".join(filter(None, [title, f"seed {row['seed']}"]))
    name = f"{title}.{generation.request.extension}"
    path = save_bytes_to_cache(admission.store.audio(row), name, str(admission.store.scratch / PAGE))
    return PlayerEntry(title, path, row, controls=controls)


async def cancel(admission: Admission, ids: Sequence[str]) -> str:
    """Cancel a visitor's generations; finished ones stay as they are."""
    for generation_id in ids:
        admission.scheduler.cancel(await admission.scheduler.find(generation_id, OWNER))
    return "cancelling" if ids else "nothing is under way"


def grid_requests(
    params: GenerationParams, axes: Mapping[str, Sequence[float]]
) -> list[tuple[str, GenerationParams]]:
    """A titled request for each cell of a grid, row by row."""
    names = sorted(axes)[::-1]  # guidance down, strength across
    requests = []
    for values in itertools.product(*(axes[name] for name in names)):
        point: dict[str, Any] = dict(zip(names, values, strict=True))
        title = ", ".join(f"{TITLES[name]} {value:g}" for name, value in sorted(point.items()))
        requests.append((title, replace(params, **point)))
    return requests


def one_seed(params: GenerationParams) -> GenerationParams:
    """A request with a fixed seed, so that the cells of a grid differ in the swept values only."""
    return replace(params, seed=pick_seeds(params.seed, GenerationConfig(1))[0])


async def latest_seeds(admission: Admission, ids: Sequence[str]) -> list[int]:
    """The seeds of a visitor's latest generations, without duplicates."""
    generations = [await admission.scheduler.find(generation_id, OWNER) for generation_id in ids]
    return list(
        dict.fromkeys(seed for generation in generations for seed in generation.request.track["config"]["seeds"])
    )


def as_many(seeds: Sequence[int], count: int) -> list[int]:
    """The first ``count`` seeds, followed by new consecutive ones if there are fewer."""
    following = (seed % SEED_LIMIT for seed in itertools.count(seeds[-1] + 1))
    new = (seed for seed in following if seed not in seeds)
    return list(itertools.islice(itertools.chain(seeds, new), count))


async def batch_command(
    admission: Admission,
    source: str | None,
    params: GenerationParams,
    config: GenerationConfig,
    axes: Mapping[str, Sequence[float]] | None,
    shown_seeds: Sequence[int] = (),
) -> str:
    """The command that makes the same covers as a catalogue job; writes a manifest with this one track.

    Args:
        shown_seeds: seeds of the covers on the page, used if the request has no seed.

    Raises:
        RestyleError: the request cannot be served, or has no equivalent in a catalogue job.
    """
    if params.seed < 0 and shown_seeds:
        config = replace(config, seeds=as_many(shown_seeds, config.batch_size))
    with _opened(source) as file:
        sent = SentFile(Path(file.name).name, file)
        async with admission.prepared(params, config, OWNER, sent) as request:
            # In tenths of a second, which distinguishes the commands of one visitor.
            name = f"batches/{request.track['track_id']}-{time.time_ns() // 10**8}"
            manifest, output = (admission.uploads.uri(f"{name}/{part}") for part in ("manifest.csv", "out"))
            seeds = request.track["config"]["seeds"]
            command = command_of(manifest, output, admission.spec, params, config, seeds, axes)
            await asyncio.to_thread(admission.store.batch, name, manifest_of(request.track), request)
            return command
