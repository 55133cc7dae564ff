"""Responses: the state of a generation as JSON, and the headers of an audio file."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pipeline.service.problem_details import MAX_MESSAGE, ProblemError, of_row, shortened
from pipeline.service.scheduler import Generation, Scheduler

MEDIA_TYPES = {
    "wav": "audio/wav",
    "wav32": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/mp4",
}
EXPOSED = ("X-Notes", "X-Generation-Id", "X-Item-Id", "X-Seed", "X-Duration-Seconds", "Location", "Retry-After")
# Where files lie is internal to the service; clients get links.
_NOT_TOLD = ("source", "reference_audio", "audio_path", "node")


def as_json(generation: Generation, scheduler: Scheduler) -> dict[str, Any]:
    """The state of a generation, with a link to each finished cover."""
    covers = [_cover(generation, number, scheduler) for number in range(len(generation.request.covers))]
    return {
        "id": generation.request.id,
        "status": generation.status,
        "progress": progress(generation),
        "waiting_before": waiting_before(generation, scheduler),
        "url": f"/v1/audio/generations/{generation.request.id}",
        "covers": covers,
        "notes": list(generation.request.notes),
    }


def progress(generation: Generation) -> float:
    """The share of a generation's steps that are done, 0..1."""
    done = [1.0 if item in generation.rows else _share(generation, item) for item in generation.request.item_ids]
    return round(sum(done) / len(done), 4)


def _share(generation: Generation, item_id: str) -> float:
    job = generation.jobs.get(item_id)
    # The rest is for decoding, measuring and writing.
    return 0.95 * job.step / job.steps if job is not None and job.steps else 0.0


def waiting_before(generation: Generation, scheduler: Scheduler) -> int:
    """Covers in the queue before the first of a generation."""
    for place, item_id in enumerate(scheduler.queue):
        if item_id in generation.jobs:
            return place
    return 0


def _cover(generation: Generation, number: int, scheduler: Scheduler) -> dict[str, Any]:
    item_id = generation.request.covers[number]
    item = next(item for item in generation.request.track["items"] if item["item_id"] == item_id)
    job, row = generation.jobs.get(item_id), generation.rows.get(item_id)
    ok = row is not None and row["status"] == "ok"
    status = "queued" if job is None or not job.running else "running"
    if row is not None:
        cancelled = row.get("error_kind") == "cancelled"
        status = "done" if ok else "cancelled" if cancelled else "failed"
    elif generation.cancelled:
        status = "cancelled"
    error = None if row is None or ok else of_row(row, generation.request.track["source"])
    if ok and row is not None and row["audio_path"] not in scheduler.store.quota:
        status, ok, error = "gone", False, ProblemError("gone")
    return {
        "item_id": item_id,
        "seed": item["seed"],
        "status": status,
        "step": job.step if job is not None else 0,
        "steps": job.steps if job is not None else 0,
        "audio_url": f"/v1/audio/generations/{generation.request.id}/audio/{number}" if ok else None,
        "row": public_row(row) if ok and row is not None else None,
        "error": error.as_json()["error"] if error else None,
    }


def public_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A result row as shown to clients."""
    shown = {name: value for name, value in row.items() if name not in _NOT_TOLD} | {"notes": notes_of(row)}
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in shown.items()}


def notes_of(row: Mapping[str, Any]) -> list[str]:
    """The notes of a result row, without the service's paths."""
    paths = [row[name] for name in ("source", "reference_audio") if row.get(name)]
    notes = list(row["notes"])
    for path in paths:
        notes = [note.replace(f" {path}", "") for note in notes]
    return notes


def media_type(generation: Generation) -> str:
    """Media type of a generation's audio files."""
    return MEDIA_TYPES[generation.request.track["config"]["audio_format"]]


def audio_headers(generation: Generation, row: Mapping[str, Any]) -> dict[str, str]:
    """Headers of a cover's file: ids, seed, file name, and notes as a JSON list."""
    name = f"{row['item_id']}.{generation.request.extension}"
    notes = dict.fromkeys([*generation.request.notes, *notes_of(row)])
    return {
        "X-Notes": json.dumps([shortened(note, MAX_MESSAGE) for note in notes]),
        "X-Generation-Id": generation.request.id,
        "X-Item-Id": row["item_id"],
        "X-Seed": str(row["seed"]),
        "X-Duration-Seconds": f"{row['duration_s']:.3f}",
        "Content-Disposition": f'inline; filename="{quote(name)}"',
    }
