"""The worker: one loaded model, restyling one track at a time with all the settings it still needs.

Ray calls a worker from several threads. Each call reads and decodes its source, takes the device under one
lock, and encodes and writes outside it, so the next track is read while this one is denoised.
"""

import hashlib
import io
import json
import logging
import os
import platform
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from acestep import hub
from acestep.audio import EXTENSIONS, encode_audio, finish, is_silent, load_audio
from acestep.conditions import cut_notes, prepare
from acestep.constants import NUMERICS_VERSION, SAMPLE_RATE, UNDERSTANDING_SEED
from acestep.cover import resolve
from acestep.errors import AudioError, GenerationError, RestyleError
from acestep.handler import AceStepHandler
from acestep.language_model import LanguageModel
from acestep.prompt import Prompt
from acestep.stages import Chain, Stage, parse_stage
from acestep.understanding import fill
from pipeline.items import effective_columns, item_columns
from pipeline.results import as_table
from pipeline.storage import Store, locate, read_file

log = logging.getLogger(__name__)
ATTEMPTS = "attempts"


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker needs to know.

    launch: names this launch of the job.
    fingerprint: of the checkpoint the driver planned with.
    language_model: name of the one that fills in musical facts; None asks none.
    threads: CPU threads of torch in this worker; None leaves torch's own choice.
    max_attempts: how often an item may take the whole process down before it is rejected.
    """

    output: Store
    launch: str
    model: str
    variant: str | None
    fingerprint: str
    language_model: str | None
    device: str | None
    dtype: str
    audio_format: str
    most_seconds: float
    threads: int | None
    max_attempts: int
    adapter: str | None = None
    adapter_scale: float = 1.0


class RestyleWorker:
    """A Ray actor: plan rows in, result rows out. No exception of a track leaves it."""

    def __init__(self, spec: WorkerSpec):
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        self.spec = spec
        self.device_lock = threading.RLock()
        self.handler = AceStepHandler.from_checkpoint(
            spec.model, spec.variant, spec.device, spec.dtype, spec.adapter, spec.adapter_scale
        )
        self.language_model = (
            LanguageModel.from_checkpoint(
                hub.find_language_model(spec.language_model), self.handler.device, self.handler.dtype
            )
            if spec.language_model
            else None
        )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Restyle the tracks of a batch of ``PLAN_SCHEMA``; returns rows of the result ``SCHEMA``."""
        return as_table([row for track in batch.to_pylist() for row in self.restyle(track)])

    def restyle(self, track: dict[str, Any]) -> list[dict[str, Any]]:
        """All items of one track."""
        shared = self._shared_columns(track)
        rows = [shared | item_columns(item) for item in track["items"]]
        try:
            guard = self._guard(f"{track['items'][0]['item_id']}-source")
            with self._alone_after_a_death(guard), guard:
                read_at = time.perf_counter()
                source = load_audio(self._open(track["source"]), self.spec.most_seconds)
                reference = None
                if track["reference"]:
                    try:
                        reference = load_audio(self._open(track["reference"]), self.spec.most_seconds)
                    except AudioError as error:
                        raise AudioError(f"its reference_audio {track['reference']}: {error}") from error
                read_s = time.perf_counter() - read_at
                chains = [tuple(map(parse_stage, json.loads(item["stages"]))) for item in track["items"]]
                plans = [resolve(stages[0].setting, self.handler.is_turbo) for stages in chains]
                with self.device_lock:
                    started = time.perf_counter()
                    prompt = Prompt(**json.loads(track["prompt"]))
                    listens = self.language_model is not None
                    conditions = prepare(self.handler, source, prompt, plans, reference, encode=listens)
                    notes: list[str] = []
                    if self.language_model is not None:
                        codes = conditions.source_codes()[0].tolist()
                        found = self.language_model.understand(codes, seed=UNDERSTANDING_SEED)
                        prompt, notes = fill(prompt, found)
                        conditions = replace(conditions, prompt=prompt)
                    self.handler.synchronize()
                    condition_s = time.perf_counter() - started
                if reference is not None and is_silent(reference):
                    notes.append(f"reference_audio {track['reference']} is silent and has no effect")
                if reference is None and any(plan.reference_pick != "fixed" for plan in plans):
                    notes.append("reference_pick has no effect: there is no reference_audio")
        except Exception as error:
            outcome = self._outcome(error)
            message = f"{track['source']}: {outcome['error_message']}"
            return [row | outcome | {"error_message": message} for row in rows]
        shared = {
            "notes": [*track["notes"], *notes],
            "source_duration_s": source.shape[1] / SAMPLE_RATE,
            "read_s": read_s / len(rows),
            "condition_s": condition_s / len(rows),
            **{name: getattr(prompt, name) for name in ("language", "bpm", "keyscale", "timesignature")},
        }
        del source, reference
        chain = Chain(conditions, [(stages, row["seed"]) for stages, row in zip(chains, rows, strict=True)])
        return [self._item(row | shared, stages, chain) for row, stages in zip(rows, chains, strict=True)]

    def _item(self, row: dict[str, Any], stages: tuple[Stage, ...], chain: Chain) -> dict[str, Any]:
        plan = resolve(stages[-1].setting, self.handler.is_turbo)
        row = row | effective_columns(plan)
        try:
            guard = self._guard(row["item_id"])
            with self._alone_after_a_death(guard), guard:
                row["attempt"] = guard.attempt
                prompt = stages[-1].prompt(chain.track.prompt)
                cut = cut_notes(self.handler, prompt, chain.track.duration_s, plan)
                row["notes"] = [*row["notes"], *plan.notes, *cut]
                with self.device_lock:
                    cover = chain.run(stages, row["seed"])
                row |= {"denoise_s": cover.denoise_s, "decode_s": cover.decode_s}
                started = time.perf_counter()
                row |= self._write(row, finish(cover.wave))
                row["write_s"] = time.perf_counter() - started
        except Exception as error:
            return row | self._outcome(error)
        return row | {"status": "ok", "finished_at": datetime.now(UTC)}

    def _guard(self, name: str) -> "AttemptGuard":
        return AttemptGuard(self.spec.output, f"{self.spec.launch}/{name}", self.spec.max_attempts)

    def _alone_after_a_death(self, guard: "AttemptGuard") -> AbstractContextManager[object]:
        """Work that was under way when the process died is repeated alone, so that only the guilty is blamed."""
        return self.device_lock if guard.attempt > 1 else nullcontext()

    def _write(self, row: dict[str, Any], wave: Tensor) -> dict[str, Any]:
        audio_format = self.spec.audio_format
        content = encode_audio(wave, audio_format)
        extension = EXTENSIONS.get(audio_format, audio_format)
        path = f"audio/{row['track_id']}/{row['item_id']}.{extension}"
        self.spec.output.write(path, content)
        return {
            "audio_path": path,
            "audio_sha256": hashlib.sha256(content).hexdigest(),
            "audio_bytes": len(content),
            "sample_rate": SAMPLE_RATE,
            "frames": wave.shape[1],
            "duration_s": wave.shape[1] / SAMPLE_RATE,
        }

    def _shared_columns(self, track: dict[str, Any]) -> dict[str, Any]:
        return {
            "track_id": track["track_id"],
            "source": track["source"],
            "reference_audio": track["reference"],
            "caption": json.loads(track["prompt"])["caption"],
            "preset": track["preset"],
            "notes": track["notes"],
            "source_duration_s": track["source_duration_s"],
            "model": self.spec.model,
            "model_fingerprint": self.spec.fingerprint,
            "dtype": self.spec.dtype,
            "numerics_version": NUMERICS_VERSION,
            "node": platform.node(),
        }

    def _open(self, uri: str) -> io.BytesIO:
        return io.BytesIO(read_file(*locate(uri)))

    def _outcome(self, error: Exception) -> dict[str, Any]:
        """The result columns of a failure."""
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
        return _outcome(error)


class WorkerDiedError(RestyleError):
    """An item took its worker process down too often."""


class AttemptGuard:
    """Counts, in files that outlive the process, how often work was begun and not left again.

    Ray restarts a dead worker and hands it the same track for ever; this ends it. Only deaths within one launch
    count: what was stopped from outside is not to blame.
    """

    def __init__(self, store: Store, name: str, most: int):
        self.store, self.name, self.most = store, name, most
        self.attempt = 1
        while store.exists(self._marker(self.attempt)):
            self.attempt += 1

    def _marker(self, attempt: int) -> str:
        return f"{ATTEMPTS}/{self.name}.{attempt}"

    def __enter__(self) -> "AttemptGuard":
        if self.attempt > self.most:
            self._clear(self.attempt - 1)
            raise WorkerDiedError(f"the worker process died {self.most} times at this item; it is not tried again")
        self.store.write(self._marker(self.attempt), f"{platform.node()} {os.getpid()}".encode())
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError):
            # After such an error every later call on the device fails: leave, with the marker standing, so that
            # the death counts and Ray starts a fresh process.
            log.critical("the device is broken, leaving: %s", error)
            os._exit(1)
        self._clear(self.attempt)

    def _clear(self, last: int) -> None:
        for attempt in range(1, last + 1):
            self.store.delete(self._marker(attempt))


def _outcome(error: Exception) -> dict[str, Any]:
    status, kind, message = "failed", "internal_error", f"{type(error).__name__}: {error}"
    if isinstance(error, WorkerDiedError):
        status, kind, message = "rejected", "worker_died", str(error)
    elif isinstance(error, AudioError):
        kind, message = "unreadable_audio", str(error)
    elif isinstance(error, torch.OutOfMemoryError):
        kind = "out_of_memory"
    elif isinstance(error, GenerationError):
        kind, message = error.kind, str(error)
    elif isinstance(error, RestyleError):
        kind, message = "bad_request", str(error)
    elif isinstance(error, OSError):
        kind = "storage_error"
    if kind == "internal_error":
        log.exception("unexpected error")
    return {
        "status": status,
        "error_kind": kind,
        "error_message": message,
        "finished_at": datetime.now(UTC),
    }
