"""Store of generations: finished covers with their rows, and records of requests."""

import json
import logging
import re
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from operator import itemgetter
from typing import Any

from acestep.constants import LATENT_RATE, MAX_SOURCE_SECONDS, MIN_LATENT_FRAMES
from acestep.errors import RestyleError
from acestep.generation.params import WITH_BITRATE
from acestep.generation.request import parse_bitrate
from acestep.parameters.values import from_json
from pipeline.planning.disk_space import max_bytes
from pipeline.service.config import StoreSpec
from pipeline.service.disk_quota import DiskQuota
from pipeline.service.generation_request import GenerationRequest
from pipeline.service.result_rows import PART_ROWS, RowIndex
from pipeline.service.retained_files import free_bytes, kept_files, note_use, remove_folder, remove_unfinished
from pipeline.service.scratch import emptied_scratch_folder
from pipeline.storage.parquet_parts import PartError
from pipeline.storage.store import Store

log = logging.getLogger(__name__)
ORDERS, OPEN = "orders", "orders/open"
_UPLOAD = re.compile(r"uploads/[0-9a-f]{64}(?=\?|$)")


class GenerationStore:
    """Finished covers and request records in an output folder.

    Rows of earlier runs are in Parquet, recent ones in the workers' receipts.
    """

    def __init__(self, store: Store, spec: StoreSpec | None = None):
        self.store, self.scratch = store, emptied_scratch_folder(store)
        self.quota = DiskQuota(spec, self._remove, partial(note_use, store), partial(free_bytes, store))
        remove_unfinished(store)
        files = list(kept_files(store))
        self.rows = RowIndex(store, {file.name for file in files})
        self.quota.fill(files)
        self.new = 0  # covers since the last Parquet part

    def row(self, track_id: str, item_id: str) -> dict[str, Any] | None:
        """The row of an item whose cover is finished and present, else None."""
        try:
            row = self.rows.find(track_id, item_id)
        except PartError as error:
            log.warning("cover %s is made again: %s", item_id, error)
            return None
        return row if row is not None and self._whole(row) else None

    def _whole(self, row: Mapping[str, Any]) -> bool:
        return self.has(row["audio_path"], row.get("audio_bytes"))

    def has(self, name: str, expected: int | None = None) -> bool:
        """Whether a cover's file exists with the expected size; counts as a use."""
        self.quota.wait_for_removals(name)
        size = self.store.size(name)
        if size and size == (expected or size):
            self.quota.used(name)
            return True
        self.quota.forget(name)
        return False

    def audio(self, row: Mapping[str, Any]) -> bytes:
        """The content of a cover's file.

        Raises:
            FileNotFoundError: the file was removed.
        """
        if not self._whole(row):
            raise FileNotFoundError(row["audio_path"])
        return self.store.read(row["audio_path"])

    def made(self, row: Mapping[str, Any]) -> None:
        """Count a row that a worker finished."""
        if row["status"] == "ok":
            self.quota.add(row["audio_path"], row["audio_bytes"])
            self.new += 1

    def names_of(self, request: GenerationRequest) -> tuple[str, ...]:
        """The files of a request, including those not yet written."""
        uris = (request.track["source"], request.track["reference"] or "")
        sources = [found.group() for found in map(_UPLOAD.search, uris) if found]
        track_id = request.track["track_id"]
        return (*sources, *(f"audio/{track_id}/{item_id}.{request.extension}" for item_id in request.item_ids))

    def opened(self, request: GenerationRequest) -> None:
        """Record an open request, which a restart resumes."""
        self.store.write(f"{OPEN}/{request.id}.json", _written(request))

    def closed(self, request: GenerationRequest, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Record the end of a request, with the row of each item."""
        name, content = f"{ORDERS}/{request.id}.json", _written(request, rows)
        self.store.write(name, content)
        self.quota.add(name, len(content))
        self.dropped(request)

    def dropped(self, request: GenerationRequest) -> None:
        """Remove the open record of a request, if it exists."""
        if self.store.exists(f"{OPEN}/{request.id}.json"):
            self.store.delete(f"{OPEN}/{request.id}.json")

    def finished(self, generation_id: str) -> tuple[GenerationRequest, dict[str, dict[str, Any]]] | None:
        """A finished request and its rows, or None."""
        name = f"{ORDERS}/{generation_id}.json"
        try:
            content = self.store.read(name)
        except (FileNotFoundError, RestyleError):
            return None
        self.quota.used(name)
        return _read(name, content)

    def batch(self, name: str, manifest: bytes, request: GenerationRequest) -> None:
        """Write the manifest of a batch, and mark its upload as used after it."""
        path = f"{name}/manifest.csv"
        with self.quota.holding(*self.names_of(request)):
            self.store.write(path, manifest)
            self.quota.add(path, len(manifest))
            self.quota.used(*self.names_of(request))

    def left_open(self) -> Iterator[GenerationRequest]:
        """Requests that an earlier run did not finish, the oldest first."""
        names = self.store.files(OPEN, ".json")
        found = [(content, _read(name, content)) for name in names for content in [self.store.read(name)]]
        whole = [(json.loads(content)["written_at"], read[0]) for content, read in found if read]
        return iter(request for _, request in sorted(whole, key=itemgetter(0)))

    def tidy(self) -> None:
        """Periodic maintenance: measure free space, evict files, write rows as Parquet parts."""
        self.quota.look()
        self.quota.evict()
        if self.new >= PART_ROWS:
            self.new = 0
            for rows in self.rows.fold():
                # Covers that were cancelled while being written are known from their receipts only.
                names = rows.select(["track_id", "item_id", "audio_path", "audio_bytes"]).to_pylist()
                for row in names:
                    if row["audio_path"] not in self.quota:
                        self._count(row)
        self.rows.write_anew(PART_ROWS)

    def _count(self, row: Mapping[str, Any]) -> None:
        """Count a cover that is missing from the quota, or drop its row if its file was removed."""
        if self.store.exists(row["audio_path"]):
            self.quota.add(row["audio_path"], row["audio_bytes"])
        else:
            self.rows.drop(row["track_id"], row["item_id"])

    def _remove(self, name: str) -> None:
        self.store.delete(name)
        folder, _, file = name.rpartition("/")
        if name.startswith("audio/"):
            track_id = folder.removeprefix("audio/")
            self.rows.drop(track_id, file.partition(".")[0])
            if not self.quota.holds_below(f"{folder}/"):
                remove_folder(self.store, folder)
                remove_folder(self.store, f"receipts/{track_id}")
        elif name.startswith("batches/"):
            remove_folder(self.store, folder)


def size_of(request: GenerationRequest, max_seconds: float = MAX_SOURCE_SECONDS) -> int:
    """Upper bound in bytes for each cover of a request."""
    config, seconds = request.track["config"], request.track["source_duration_s"] or max_seconds
    seconds = max(seconds, MIN_LATENT_FRAMES / LATENT_RATE)
    if config["audio_format"] in WITH_BITRATE:
        return round(max_bytes(seconds, 1, "opus") * max(parse_bitrate(config["mp3_bitrate"]) / 128, 1.0))
    return round(max_bytes(seconds, 1, config["audio_format"]))


def _written(request: GenerationRequest, rows: Mapping[str, Mapping[str, Any]] | None = None) -> bytes:
    content = {
        "id": request.id,
        "owner": request.owner,
        "track": request.track,
        "covers": request.covers,
        "notes": request.notes,
        "rows": rows or {},
        "written_at": datetime.now(UTC).isoformat(),
    }
    plain = json.loads(json.dumps(content, default=str))
    return json.dumps(plain | {"checksum": _checksum(plain)}).encode()


def _checksum(values: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(values).encode()):08x}"


def _read(name: str, content: bytes) -> tuple[GenerationRequest, dict[str, dict[str, Any]]] | None:
    """A request record and its rows; None if it is damaged or of another version."""
    try:
        values = from_json(content)
        # Records of earlier versions have no checksum. A corrupt value would be made under another request's ids.
        if values.pop("checksum", None) not in (None, _checksum(values)):
            raise ValueError("its values do not match its checksum")
        notes = tuple(values.get("notes", ()))
        request = GenerationRequest(values["id"], values["track"], tuple(values["covers"]), values["owner"], notes)
        if not (values["written_at"] and request.track["track_id"] and request.item_ids):
            raise ValueError("it names no items")
        return request, values["rows"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is no order of this version (%r)", name, error)
        return None
