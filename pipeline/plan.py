"""The plan: tracks x settings, minus what is done, as one row per track with the items it still needs.

The driver plans; only paths, words and numbers are in a plan, never audio.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from acestep.errors import RequestError
from pipeline.items import ITEM, Rules, digest_of, item_columns, make_items
from pipeline.manifest import RejectedRow, Track
from pipeline.probe import Probe
from pipeline.settings import RepeatsError

BATCH_ROWS = 8192

PLAN_SCHEMA = pa.schema(
    [
        ("track_id", pa.string()),
        ("source", pa.string()),
        ("reference", pa.string()),
        ("prompt", pa.string()),  # the Prompt as JSON
        ("preset", pa.string()),
        ("notes", pa.list_(pa.string())),
        ("source_duration_s", pa.float64()),
        ("items", pa.list_(ITEM)),
    ]
)


@dataclass
class Plan:
    """Work to do (``rows``, of ``PLAN_SCHEMA``, longest first) and result rows that are final already.

    items: items in ``rows``; done: items that an earlier launch finished; ids and settings: of every item of this
    launch, done or not.
    """

    rows: pa.Table
    failed: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    items: int = 0
    done: int = 0
    ids: set[str] = field(default_factory=set)
    settings: set[str] = field(default_factory=set)


def make_plan(
    rows: Iterable[Track | RejectedRow],
    rules: Rules,
    finished: set[str],
    look: Callable[[Sequence[str]], Mapping[str, Probe]],
) -> Plan:
    """Cross tracks and settings, and leave out every item whose id is in ``finished``.

    Manifest rows are taken in batches, and of a row with nothing to do only the ids are kept.

    Args:
        look: probes of files by their names, such as ``Probes.of``.

    Raises:
        RepeatsError: settings would give identical audio for a row that sets nothing itself.
    """
    plan = Plan(PLAN_SCHEMA.empty_table())
    chunks, planned = [plan.rows], iter(rows)
    while batch := list(islice(planned, BATCH_ROWS)):
        todo = list(_plan_batch(plan, batch, rules, finished, look))
        chunks.append(pa.Table.from_pylist(todo, schema=PLAN_SCHEMA))
    table = pa.concat_tables(chunks)
    # The longest first, so that no worker starts a ten-minute track when the others are already done.
    items = pc.list_value_length(table["items"])
    work = pc.multiply(pc.fill_null(table["source_duration_s"], 0.0), pc.cast(items, pa.float64()))
    order = pc.sort_indices(pa.table({"work": work}), [("work", "descending")])
    plan.rows = table.take(order)
    return plan


def _plan_batch(
    plan: Plan,
    batch: Sequence[Track | RejectedRow],
    rules: Rules,
    finished: set[str],
    look: Callable[[Sequence[str]], Mapping[str, Probe]],
) -> Iterator[dict[str, Any]]:
    """Rows of ``PLAN_SCHEMA`` for the tracks of a batch that need work; the plan takes note of the others."""
    files = [uri for row in batch if isinstance(row, Track) for uri in (row.source, row.reference) if uri]
    probes = look(files)
    for row in batch:
        if isinstance(row, RejectedRow):
            _reject(plan, row.track_id, row.source, row.caption, row.kind, row.message, finished)
            continue
        track, source = row, probes[row.source]
        reference = probes[track.reference] if track.reference else None
        try:
            heard = reference.digest or track.reference if reference else None
            items = list(make_items(track, source.digest or track.source, heard, rules))
        except RepeatsError:
            raise
        except RequestError as error:
            words = ("conflicting_override", str(error))
            _reject(plan, track.track_id, track.source, track.prompt.caption, *words, finished)
            continue
        if source.duration_s is not None and source.duration_s > rules.most_seconds:
            too_long = f"{source.duration_s:.1f} s is longer than {rules.most_seconds:g} s; cut the track"
            _reject(plan, track.track_id, track.source, track.prompt.caption, "too_long", too_long, finished)
            continue
        plan.ids.update(item["item_id"] for item in items)
        plan.settings.update(item["setting_id"] for item in items)
        missing = [item for item in items if item["item_id"] not in finished]
        plan.done += len(items) - len(missing)
        broken = next((p for p in (source, reference) if p and p.error_kind), None)
        if broken is not None:
            plan.failed += [_failure(track, item, broken) for item in missing]
        elif missing:
            plan.items += len(missing)
            yield {
                "track_id": track.track_id,
                "source": track.source,
                "reference": track.reference,
                "prompt": json.dumps(asdict(track.prompt)),
                "preset": track.preset.name if track.preset else rules.preset,
                "notes": list(track.notes),
                "source_duration_s": source.duration_s,
                "items": missing,
            }


def _reject(
    plan: Plan, track_id: str, source: str, caption: str, kind: str, message: str, finished: set[str]
) -> None:
    row = {
        "track_id": track_id,
        "source": source,
        "caption": caption,
        "status": "rejected",
        "error_kind": kind,
        "error_message": message,
    }
    digest = digest_of(row)
    plan.ids.add(digest)
    if digest in finished:
        plan.done += 1
    else:
        plan.rejected.append({"item_id": digest} | row)


def _failure(track: Track, item: Mapping[str, Any], error: Probe) -> dict[str, Any]:
    return {
        "caption": track.prompt.caption,
        **item_columns(item),
        "track_id": track.track_id,
        "source": track.source,
        "reference_audio": track.reference,
        "notes": list(track.notes),
        "status": "failed",
        "error_kind": error.error_kind,
        "error_message": error.error,
    }
