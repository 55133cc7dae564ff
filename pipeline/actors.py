"""The worker: one loaded model, restyling one track at a time with all the settings it still needs.

Ray calls a worker from several threads. Each call reads and decodes its source, takes the device under one
lock, and encodes and writes outside it, so the next track is read while this one is denoised.
"""

import hashlib
import itertools
import json
import logging
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from acestep import hub
from acestep.audio import EXTENSIONS, encode_audio, finish, is_silent
from acestep.checkpoint import fingerprint
from acestep.conditions import TrackConditions, cut_notes, prepare
from acestep.constants import NUMERICS_VERSION, SAMPLE_RATE, SILENT_SOURCE, UNDERSTANDING_SEED
from acestep.cover import CoverPlan, resolve
from acestep.errors import AudioError, RestyleError
from acestep.handler import AceStepHandler
from acestep.language_model import LanguageModel
from acestep.laps import Laps
from acestep.prompt import Prompt
from acestep.stages import Chain, Cover, Stage, parse_stage
from acestep.understanding import fill
from pipeline.attempts import AttemptGuard, is_marked
from pipeline.failures import outcome
from pipeline.items import effective_columns, item_columns
from pipeline.loading import load
from pipeline.measuring import Listened, MetricsSpec, Ruler
from pipeline.plan_schema import TRACKS
from pipeline.receipts import LAST, TASK, leave, of_track
from pipeline.results import as_table
from pipeline.startup import worker_is_ready
from pipeline.stopping import StopFlag
from pipeline.storage import Store

log = logging.getLogger(__name__)
FACTS = ("language", "bpm", "keyscale", "timesignature")


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker needs to know.

    launch: names this launch of the job.
    node: the driver's.
    fingerprint: of the checkpoint the driver planned with.
    language_model: name of the one that fills in musical facts; None asks none.
    threads: CPU threads of torch in this worker; None leaves torch's own choice.
    max_attempts: how often an item may take the whole process down before it is rejected.
    """

    output: Store
    launch: str
    node: str
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
    compiled: bool = False
    metrics: MetricsSpec = field(default_factory=MetricsSpec)


class RestyleWorker:
    """A Ray actor: plan rows in, result rows out, each as soon as its cover is written.

    No exception of a track leaves it.
    """

    def __init__(self, spec: WorkerSpec, stop: StopFlag):
        """Load the model.

        Raises:
            RestyleError: this node does not see the driver's output folder, or its model.
        """
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        laps = Laps()
        self.spec, self.stop = spec, stop
        self.device_lock = threading.RLock()
        if not is_marked(spec.output, spec.launch):
            raise RestyleError(
                f"node {platform.node()} does not see the output folder {spec.output.root}; use a folder that all "
                "nodes share, or an object store"
            )
        if platform.node() != spec.node:
            self._refuse_other_weights()
        laps.lap("checks")
        self.handler = AceStepHandler.from_checkpoint(
            spec.model, spec.variant, spec.device, spec.dtype, spec.adapter, spec.adapter_scale, spec.compiled
        )
        laps.lap("model")
        self.language_model = (
            LanguageModel.from_checkpoint(
                hub.find_language_model(spec.language_model), self.handler.device, self.handler.dtype
            )
            if spec.language_model
            else None
        )
        laps.lap("language model")
        self.ruler = Ruler(spec.metrics, self.handler.device, self.device_lock)
        laps.lap("measures")
        laps.seconds.pop("model")
        worker_is_ready(spec.output, spec.launch, {**self.handler.load_s, **laps.seconds})

    def _refuse_other_weights(self) -> None:
        folders = hub.find(self.spec.model, self.spec.variant)
        adapter = hub.find_adapter(self.spec.adapter) if self.spec.adapter else None
        found = fingerprint(folders, adapter, self.spec.adapter_scale)
        if found != self.spec.fingerprint:
            raise RestyleError(
                f"node {platform.node()} has another {self.spec.model} ({found}, and the driver's is "
                f"{self.spec.fingerprint}); give all nodes the same weights"
            )

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Restyle tracks (rows of ``PLAN_SCHEMA``); yields a row of the result ``SCHEMA`` for each item.

        After a wish to stop, items that were not begun are left out.
        """
        tracks = list(itertools.chain(*batch[TRACKS].to_pylist()))
        task, last = tracks[0]["items"][0]["item_id"], tracks[-1]["items"][-1]["item_id"]
        for track in tracks:
            if not self.stop.lowered:
                for row in self.restyle(track):
                    table = as_table([row]).append_column(TASK, [[task]])
                    yield table.append_column(LAST, [[row["item_id"] == last]])

    def restyle(self, track: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """All items of one track, in their order: Ray counts on it when it runs a task again."""
        try:
            finished = of_track(self.spec.output, track["track_id"])
        except OSError as error:
            log.warning("%s: receipts cannot be read: %s", track["track_id"], error)
            finished = {}
        missing = [item for item in track["items"] if item["item_id"] not in finished]
        made = self._missing(track | {"items": missing}) if missing else iter(())
        for item in track["items"]:
            if item["item_id"] in finished:
                yield finished[item["item_id"]]
                continue
            row = next(made, None)
            if row is None:
                return
            yield row

    def _missing(self, track: dict[str, Any]) -> Iterator[dict[str, Any]]:
        shared = self._shared_columns(track)
        rows = [shared | item_columns(item) for item in track["items"]]
        try:
            chains = [tuple(map(parse_stage, json.loads(item["stages"]))) for item in track["items"]]
            plans = [resolve(stages[0].setting, self.handler.is_turbo) for stages in chains]
            guard = self._guard(f"{track['track_id']}-source")
            with self._alone_after_a_death(guard), guard:
                read_at = time.perf_counter()
                source, reference = self._read(track)
                read_s = time.perf_counter() - read_at
                with self.device_lock:
                    started = time.perf_counter()
                    conditions, notes = self.listen(track, source, reference, plans)
                    condition_s = time.perf_counter() - started
                heard = self.ruler.listen(source)
            chain = Chain(conditions, [(stages, row["seed"]) for stages, row in zip(chains, rows, strict=True)])
        except Exception as error:
            found = self._outcome(error)
            message = f"{track['source']}: {found['error_message']}"
            yield from (row | found | {"error_message": message} for row in rows)
            return
        shared = {
            "notes": [*track["notes"], *notes],
            "source_duration_s": source.shape[1] / SAMPLE_RATE,
            "read_s": read_s / len(rows),
            "condition_s": condition_s / len(rows),
            **{name: getattr(conditions.prompt, name) for name in FACTS},
        }
        del source, reference
        for row, stages in zip(rows, chains, strict=True):
            if self.stop.lowered:
                return
            yield self._item(row | shared, stages, chain, heard, len(rows))

    def _read(self, track: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """The source and the timbre reference ``[2, n]``."""
        source = load(track["source"], self.spec.most_seconds)
        if not track["reference"]:
            return source, None
        try:
            return source, load(track["reference"], self.spec.most_seconds)
        except AudioError as error:
            raise AudioError(f"its reference_audio {track['reference']}: {error}") from error

    def listen(
        self, track: dict[str, Any], source: Tensor, reference: Tensor | None, plans: Sequence[CoverPlan]
    ) -> tuple[TrackConditions, list[str]]:
        """What all items of a track have in common, and notes on it; the worker holds the device."""
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
        if is_silent(source):
            notes.append(SILENT_SOURCE)
        if reference is not None and is_silent(reference):
            notes.append(f"reference_audio {track['reference']} is silent and has no effect")
        if reference is None and any(plan.reference_pick != "fixed" for plan in plans):
            notes.append("reference_pick has no effect: there is no reference_audio")
        return conditions, notes

    def cover(self, chain: Chain, stages: tuple[Stage, ...], seed: int) -> Cover:
        """One item's cover; the worker holds the device."""
        return chain.run(stages, seed)

    def _item(
        self, row: dict[str, Any], stages: tuple[Stage, ...], chain: Chain, heard: Listened | None, covers: int
    ) -> dict[str, Any]:
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
                    cover = self.cover(chain, stages, row["seed"])
                row |= {"denoise_s": cover.denoise_s, "decode_s": cover.decode_s}
                started, wave = time.perf_counter(), finish(cover.wave)
                row |= self._write(row, wave)
                row["write_s"] = time.perf_counter() - started
                row |= self.ruler.measure(heard, wave, prompt.caption, covers)
        except Exception as error:
            return row | self._outcome(error)
        row |= {"status": "ok", "finished_at": datetime.now(UTC)}
        leave(self.spec.output, row)
        return row

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

    def _outcome(self, error: Exception) -> dict[str, Any]:
        """The result columns of a failure."""
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
        return outcome(error)
