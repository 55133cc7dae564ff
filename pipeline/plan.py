"""The plan: tracks x settings, minus what is done, as one row per track with the items it still needs.

The driver plans; only paths, words and numbers are in a plan, never audio.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

import av
import pyarrow as pa
import soundfile

from acestep.errors import RequestError, RestyleError
from pipeline.items import ITEM, Rules, digest_of, item_columns, make_items
from pipeline.manifest import RejectedRow, Track
from pipeline.storage import locate

PROBE_THREADS = 16
READ_BYTES = 1 << 20

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


@dataclass(frozen=True)
class Probe:
    """What one look at a file tells: a digest of its bytes, its length, or why it cannot be used."""

    digest: str = ""
    duration_s: float | None = None
    error_kind: str | None = None
    error: str | None = None


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


def make_plan(tracks: Sequence[Track], rejected: Sequence[RejectedRow], rules: Rules, finished: set[str]) -> Plan:
    """Cross tracks and settings, and leave out every item whose id is in ``finished``."""
    plan = Plan(PLAN_SCHEMA.empty_table())
    for row in rejected:
        _reject(plan, row.track_id, row.source, row.caption, row.kind, row.message, finished)
    rows: list[dict[str, Any]] = []
    for track, source, reference in _probed(tracks):
        try:
            heard = reference.digest or track.reference if reference else None
            items = list(make_items(track, source.digest or track.source, heard, rules))
        except RequestError as error:
            words = ("conflicting_override", str(error))
            _reject(plan, track.track_id, track.source, track.prompt.caption, *words, finished)
            continue
        if source.duration_s is not None and source.duration_s > rules.most_seconds:
            too_long = f"{source.duration_s:.1f} s is longer than {rules.most_seconds:g} s; cut the track"
            _reject(plan, track.track_id, track.source, track.prompt.caption, "too_long", too_long, finished)
            continue
        plan.ids |= {item["item_id"] for item in items}
        plan.settings |= {item["setting_id"] for item in items}
        missing = [item for item in items if item["item_id"] not in finished]
        plan.done += len(items) - len(missing)
        broken = next((p for p in (source, reference) if p and p.error_kind), None)
        if broken is not None:
            plan.failed += [_failure(track, item, broken) for item in missing]
        elif missing:
            plan.items += len(missing)
            rows.append(
                {
                    "track_id": track.track_id,
                    "source": track.source,
                    "reference": track.reference,
                    "prompt": json.dumps(asdict(track.prompt)),
                    "preset": track.preset.name if track.preset else rules.preset,
                    "notes": list(track.notes),
                    "source_duration_s": source.duration_s,
                    "items": missing,
                }
            )
    # The longest first, so that no worker starts a ten-minute track when the others are already done.
    rows.sort(key=lambda row: -(row["source_duration_s"] or 0) * len(row["items"]))
    plan.rows = pa.Table.from_pylist(rows, schema=PLAN_SCHEMA)
    return plan


def probe(uri: str) -> Probe:
    """Digest a file's bytes and read its length from the header, without decoding it."""
    try:
        filesystem, path = locate(uri)
        with filesystem.open_input_file(path) as file:
            digest = hashlib.sha256()
            while chunk := file.read(READ_BYTES):
                digest.update(chunk)
            if file.size() == 0:
                return Probe(error_kind="unreadable_audio", error=f"{uri}: empty file (0 bytes)")
            return Probe(digest.hexdigest(), _duration_s(file))
    except FileNotFoundError:
        return Probe(error_kind="missing_file", error=f"{uri}: no such file")
    except (OSError, RestyleError) as error:
        return Probe(error_kind="unreadable_file", error=f"{uri}: {error}")


def _duration_s(file: BinaryIO) -> float | None:
    try:
        file.seek(0)
        return soundfile.info(file).duration
    except soundfile.LibsndfileError:
        pass
    try:
        file.seek(0)
        with av.open(file, "r") as container:
            return None if container.duration is None else container.duration / 1_000_000
    except (av.FFmpegError, ValueError):
        return None  # the worker decodes it in full and says what is wrong


def _probed(tracks: Sequence[Track]) -> Iterator[tuple[Track, Probe, Probe | None]]:
    with ThreadPoolExecutor(PROBE_THREADS) as pool:
        references = {t.reference for t in tracks if t.reference}
        probes = dict(zip(references, pool.map(probe, references), strict=True))
        for track, source in zip(tracks, pool.map(lambda t: probe(t.source), tracks), strict=True):
            yield track, source, probes.get(track.reference) if track.reference else None


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
