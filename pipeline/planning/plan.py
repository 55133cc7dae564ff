"""The plan: tracks x settings minus finished items, one row per track with its missing items.

A plan holds paths, text and numbers, never audio. It is made and written batch by batch, which bounds memory for
catalogues of any size.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa

from acestep.constants import MIN_WORK_S
from acestep.errors import RequestError
from acestep.redaction import redacted
from pipeline.catalogue.grid import RepeatsError
from pipeline.catalogue.manifest import RejectedRow, Track
from pipeline.catalogue.own_columns import META
from pipeline.catalogue.probe import Probe
from pipeline.planning.items import ItemRules, digest_of, item_columns, make_items
from pipeline.planning.schema import PLAN_SCHEMA
from pipeline.results.carried_columns import CarriedColumns
from pipeline.results.writer import as_table

BATCH_ROWS = 8192
Probing = Callable[[Sequence[str]], Mapping[str, Probe]]


@dataclass
class Plan:
    """Totals of a plan.

    tracks, items: to do; done: items finished by an earlier launch; set_aside: rows that cannot be run.
    seconds: of source audio to do, by setting, counted once per item.
    ids, settings: of every item of this launch, done or not.
    outdated: new own columns of done items whose rows hold other values.
    lost: items to do again because their audio files are missing or truncated.
    """

    tracks: int = 0
    items: int = 0
    done: int = 0
    set_aside: int = 0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    ids: set[str] = field(default_factory=set)
    settings: set[str] = field(default_factory=set)
    outdated: dict[str, Mapping[str, str]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)


def make_plan(
    rows: Iterable[Track | RejectedRow],
    rules: ItemRules,
    finished: set[str],
    look: Probing,
    todo: Callable[[pa.Table], None],
    final: Callable[[pa.Table], None],
    carried_columns: CarriedColumns | None = None,
) -> Plan:
    """Cross tracks and settings, and leave out the items in ``finished``.

    Args:
        look: probes files by their names, such as ``Probes.of``.
        todo: called with the work, tables of ``PLAN_SCHEMA``.
        final: called with the result rows of tracks and items that cannot be run.
        carried_columns: own columns in the rows of finished items; None skips their comparison.

    Raises:
        RepeatsError: two settings give identical audio for a row without values of its own.
    """
    plan, planned = Plan(), iter(rows)
    while batch := list(islice(planned, BATCH_ROWS)):
        unusable: list[dict[str, Any]] = []
        done: dict[str, Mapping[str, str]] = {}
        work = list(_plan_batch(plan, batch, rules, finished, look, unusable.append, done))
        if carried_columns is not None:
            plan.outdated |= carried_columns.outdated(done)
        plan.done += len(done)
        plan.tracks += len(work)
        plan.set_aside += len(unusable)
        todo(pa.Table.from_pylist(work, schema=PLAN_SCHEMA))
        final(as_table(unusable))
    return plan


def _plan_batch(
    plan: Plan,
    batch: Sequence[Track | RejectedRow],
    rules: ItemRules,
    finished: set[str],
    look: Probing,
    unusable: Callable[[dict[str, Any]], None],
    done: dict[str, Mapping[str, str]],
) -> Iterator[dict[str, Any]]:
    """Rows of ``PLAN_SCHEMA`` for the tracks of a batch that need work.

    Args:
        unusable: called with the result row of each track or item that cannot be run.
        done: receives the own columns of finished items.
    """

    def reject(row: dict[str, Any]) -> None:
        plan.ids.add(row["item_id"])
        if row["item_id"] in finished:
            done[row["item_id"]] = dict(row[META])
        else:
            unusable(row)

    files = [uri for row in batch if isinstance(row, Track) for uri in (row.source, row.reference) if uri]
    probes = look(files)
    for row in batch:
        if isinstance(row, RejectedRow):
            reject(_rejection(row.track_id, row.source, row.caption, row.kind, row.message, row.meta))
            continue
        track, source = row, probes[row.source]
        reference = probes[track.reference] if track.reference else None
        try:
            # Without its signature, which changes from launch to launch, a URI names the same file.
            reference_name = reference.digest or redacted(track.reference or "") if reference else None
            items = list(make_items(track, source.digest or redacted(track.source), reference_name, rules))
        except RepeatsError:
            raise
        except RequestError as error:
            reject(_refusal(track, "conflicting_override", str(error)))
            continue
        if source.duration_s is not None and source.duration_s > rules.max_seconds:
            too_long = f"{source.duration_s:.1f} s is longer than {rules.max_seconds:g} s; cut the track"
            reject(_refusal(track, "too_long", too_long))
            continue
        plan.ids.update(item["item_id"] for item in items)
        plan.settings.update(item["setting_id"] for item in items)
        missing = [item for item in items if item["item_id"] not in finished]
        done |= {item["item_id"]: track.meta for item in items if item["item_id"] in finished}
        broken = next((p for p in (source, reference) if p and p.error_kind), None)
        if broken is not None:
            for item in missing:
                unusable(_failure(track, item, broken))
        elif missing:
            plan.items += len(missing)
            for item in missing:
                plan.seconds[item["setting_id"]] += max(source.duration_s or 0.0, MIN_WORK_S)
            yield {
                "track_id": track.track_id,
                "source": track.source,
                "source_digest": source.digest,
                "reference": track.reference,
                "reference_digest": reference.digest if reference else None,
                "prompt": json.dumps(asdict(track.prompt)),
                "preset": track.preset.name if track.preset else rules.preset,
                "notes": list(track.notes),
                META: track.meta,
                "source_duration_s": source.duration_s,
                "items": missing,
            }


def _refusal(track: Track, kind: str, message: str) -> dict[str, Any]:
    return _rejection(track.track_id, track.source, track.prompt.caption, kind, message, track.meta)


def _rejection(
    track_id: str, source: str, caption: str, kind: str, message: str, meta: Mapping[str, str]
) -> dict[str, Any]:
    row = {
        "track_id": track_id,
        "source": redacted(source),
        "caption": caption,
        "status": "rejected",
        "error_kind": kind,
        "error_message": message,
    }
    return {"item_id": digest_of(row), META: meta} | row


def _failure(track: Track, item: Mapping[str, Any], error: Probe) -> dict[str, Any]:
    return {
        "caption": track.prompt.caption,
        **item_columns(item),
        "track_id": track.track_id,
        "source": track.source,
        "reference_audio": track.reference,
        "notes": list(track.notes),
        META: track.meta,
        "status": "failed",
        "error_kind": error.error_kind,
        "error_message": error.error,
    }
