"""The worker: a Ray actor with one loaded model that makes the missing covers of tracks.

Ray calls a worker from several threads. Each call reads and decodes its source, takes the device under one lock,
and encodes and writes outside of it, so that the next track is read while this one is denoised. The file is longer
than others, since it follows a track from its plan row to its result rows.
"""

import itertools
import json
import logging
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from acestep.audio.files import EXTENSIONS, encode_audio, finish
from acestep.constants import SAMPLE_RATE
from acestep.errors import RestyleError
from acestep.generation.chain import Chain, Cover, Key
from acestep.generation.conditions import TrackConditions, cut_notes, prepare
from acestep.generation.musical_facts import with_musical_facts
from acestep.generation.params import GenerationParams
from acestep.generation.stages import Stage, parse_stage
from acestep.language.prompt import Prompt
from acestep.runtime.timing import Stopwatch
from acestep.sampling.plan import CoverPlan, resolve
from pipeline.cluster.shutdown import StopFlag
from pipeline.metrics.evaluator import Evaluator, ListenResult
from pipeline.planning.items import effective_columns, item_columns, track_columns
from pipeline.planning.schema import TRACKS
from pipeline.results.journal import LAST, TASK, receipt_of, write_receipt
from pipeline.results.repair import FOUND, find_cover
from pipeline.results.writer import as_table, file_columns
from pipeline.storage.output_store import OutputError
from pipeline.storage.read_timeout import ReadTimeout
from pipeline.storage.source_errors import ReadStoppedError
from pipeline.worker.attempts import AttemptGuard, is_marked
from pipeline.worker.error_rows import outcome
from pipeline.worker.guarded_runner import GuardedRunner
from pipeline.worker.models import load_models
from pipeline.worker.spec import WorkerSpec
from pipeline.worker.startup import worker_is_ready
from pipeline.worker.track_files import TrackFiles, decode_files, fetch_files

log = logging.getLogger(__name__)
NEVER_GIVEN_UP = 10**9
FACTS = ("language", "bpm", "keyscale", "timesignature")


@dataclass(frozen=True)
class PreparedTrack:
    """What all covers of a track share.

    features: of the source, for measures.
    notes, note_kinds: on the source, as sentences and as kinds.
    duration_s, read_s, condition_s: duration of the source, and time for reading it and for its conditions.
    """

    conditions: TrackConditions
    features: ListenResult | None
    notes: list[str]
    note_kinds: list[str]
    duration_s: float
    read_s: float
    condition_s: float


@dataclass(frozen=True)
class CoverTask:
    """One cover to make: the row to fill in, its stages, and the shared objects of its track.

    features: of the source, for measures; covers: made of this source in the same call.
    """

    track: dict[str, Any]
    row: dict[str, Any]
    stages: tuple[Stage, ...]
    chain: Chain
    features: ListenResult | None
    covers: int


class RestyleWorker:
    """A Ray actor: plan rows in, result rows out, each as soon as its cover is written.

    Exceptions of a track become result rows.
    """

    def __init__(self, spec: WorkerSpec, stop: StopFlag | None = None):
        """Load the model.

        Args:
            stop: once it is requested, no new work is started; None for a service.

        Raises:
            RestyleError: this node does not see the driver's output folder, or has other weights.
        """
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        stopwatch = Stopwatch()
        self.spec, self.stop = spec, stop
        self.device_lock = threading.RLock()
        self.guarded = GuardedRunner(spec.output, spec.launch, spec.max_attempts)
        if not is_marked(spec.output, spec.launch):
            remedy = "use a folder that all nodes share, or an object store"
            reason = f"node {platform.node()} does not see the output folder {spec.output.root}"
            raise RestyleError("missing_folder", reason, remedy)
        stopwatch.lap("checks")
        self.handler, self.language_model = load_models(spec, stopwatch)
        self.evaluator = Evaluator(spec.metrics, self.handler.device, self.device_lock)
        stopwatch.lap("measures")
        stopwatch.seconds.pop("model")
        worker_is_ready(spec.output, spec.launch, {**self.handler.load_s, **stopwatch.seconds})

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Restyle tracks (rows of ``PLAN_SCHEMA``); yields a row of the result ``SCHEMA`` for each item.

        After a stop request, pending items are skipped.
        """
        tracks = list(itertools.chain(*batch[TRACKS].to_pylist()))
        task, last = tracks[0]["items"][0]["item_id"], tracks[-1]["items"][-1]["item_id"]
        for track in tracks:
            if not self._stopping:
                for row in self.restyle(track):
                    table = as_table([row]).append_column(TASK, [[task]])
                    yield table.append_column(LAST, [[row["item_id"] == last]])

    def restyle(self, track: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of all items of one track, in order, which Ray relies on when it runs a task again."""
        finished = self._finished_rows(track)
        missing = [item for item in track["items"] if item["item_id"] not in finished]
        made = self._missing_rows(track | {"items": missing}) if missing else iter(())
        for item in track["items"]:
            if item["item_id"] in finished:
                yield finished[item["item_id"]]
                continue
            row = next(made, None)
            if row is None:
                return
            yield row

    def _finished_rows(self, track: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Rows of items that an earlier run of the task finished, from their receipts."""
        finished = {}
        for item in track["items"]:
            try:
                row = receipt_of(self.spec.output, track["track_id"], item["item_id"])
            except OSError as error:
                log.warning("%s: its receipt cannot be read: %s", item["item_id"], error)
                continue
            if row is not None:
                finished[item["item_id"]] = row
        return finished

    def _missing_rows(self, track: dict[str, Any]) -> Iterator[dict[str, Any]]:
        shared = track_columns(track, self.spec.model)
        rows = [shared | item_columns(item) for item in track["items"]]
        try:
            chains = [tuple(map(parse_stage, json.loads(item["stages"]))) for item in track["items"]]
            plans = [resolve(stages[0].setting, self.handler.is_turbo) for stages in chains]
            prepared = self._prepared(track, plans)
            keys = list(zip(chains, (row["seed"] for row in rows), strict=True))
            chain = self.chain(track, prepared.conditions, keys)
        except ReadStoppedError:
            return
        except Exception as error:
            if self._stops(error):
                return
            found = self.failure(error)
            message = f"{track['source']}: {found['error_message']}"
            yield from (row | found | {"error_message": message} for row in rows)
            return
        shared = {
            "notes": [*track["notes"], *prepared.notes],
            "source_notes": prepared.note_kinds,
            "source_duration_s": prepared.duration_s,
            "read_s": prepared.read_s / len(rows),
            "condition_s": prepared.condition_s / len(rows),
            **{name: getattr(prepared.conditions.prompt, name) for name in FACTS},
        }
        for row, stages in zip(rows, chains, strict=True):
            if self._stopping:
                return
            made = self._item(CoverTask(track, row | shared, stages, chain, prepared.features, len(rows)))
            if made is None:
                return
            yield made

    def _prepared(self, track: dict[str, Any], plans: Sequence[CoverPlan]) -> PreparedTrack:
        name, started = track["track_id"], time.perf_counter()
        # Fetched outside the guard, where other threads may wait: a read that hangs must not block them.
        with closing(self._fetch(track)) as files:
            fetch_s = time.perf_counter() - started
            return self.guarded(
                f"{name}-source",
                f"the source of track {name}",
                lambda guard: self._decoded(track, plans, files, fetch_s),
            )

    def _fetch(self, track: dict[str, Any]) -> TrackFiles:
        name = f"{self.spec.launch}/{track['track_id']}-fetch"
        with AttemptGuard(self.spec.output, name, NEVER_GIVEN_UP, f"reading {track['source']}"):
            return fetch_files(track, ReadTimeout(self.spec.source_timeout_s, self.unwanted))

    def _decoded(
        self, track: dict[str, Any], plans: Sequence[CoverPlan], files: TrackFiles, fetch_s: float
    ) -> PreparedTrack:
        started = time.perf_counter()
        audio = decode_files(track, files, self.spec.max_seconds)
        read_s = fetch_s + time.perf_counter() - started
        with self.device_lock:
            started = time.perf_counter()
            conditions, notes = self.listen(track, audio.source, audio.reference, plans)
            condition_s = time.perf_counter() - started
        return PreparedTrack(
            conditions=conditions,
            features=self.evaluator.listen(audio.source),
            notes=[*(note.text for note in audio.notes), *notes],
            note_kinds=list(dict.fromkeys(note.kind for note in audio.notes)),
            duration_s=audio.source.shape[1] / SAMPLE_RATE,
            read_s=read_s,
            condition_s=condition_s,
        )

    def unwanted(self) -> bool:
        """Whether a slow read can be abandoned."""
        return self._stopping

    def listen(
        self, track: dict[str, Any], source: Tensor, reference: Tensor | None, plans: Sequence[CoverPlan]
    ) -> tuple[TrackConditions, list[str]]:
        """Conditions of a track, with notes; called with the device lock held."""
        prompt, params = Prompt(**json.loads(track["prompt"])), self.language_model_params(track)
        conditions = prepare(self.handler, source, prompt, plans, reference, encode=params is not None)
        notes: list[str] = []
        if params is not None and self.language_model is not None:
            conditions, notes = with_musical_facts(self.language_model, conditions, params)
        self.handler.synchronize()
        if reference is None and any(plan.reference_pick != "fixed" for plan in plans):
            notes.append("reference_pick has no effect: there is no reference_audio")
        return conditions, notes

    def language_model_params(self, track: dict[str, Any]) -> GenerationParams | None:
        """Parameters of the language model for a track; None where it is not used."""
        return GenerationParams() if self.language_model is not None else None

    def chain(self, track: dict[str, Any], conditions: TrackConditions, keys: Sequence[Key]) -> Chain:
        """The chain that makes all covers of a track."""
        return Chain(conditions, keys)

    def cover(self, item_id: str, chain: Chain, stages: tuple[Stage, ...], seed: int) -> Cover:
        """Make one cover; called with the device lock held."""
        return chain.run(stages, seed)

    def finished(self, track: dict[str, Any], wave: Tensor) -> Tensor:
        """The final wave ``[2, n]`` of a decoded one, as it is written and measured."""
        return finish(wave)

    def encoded(self, track: dict[str, Any], wave: Tensor) -> tuple[bytes, str]:
        """The content of an audio file, and its extension."""
        audio_format = self.spec.audio_format
        return encode_audio(wave, audio_format), EXTENSIONS.get(audio_format, audio_format)

    def failure(self, error: Exception) -> dict[str, Any]:
        """Status, kind and message of the row of a failed item."""
        return outcome(error)

    def _item(self, task: CoverTask) -> dict[str, Any] | None:
        """The row of one cover; None where the output folder failed, which ends the job."""
        row, stages, conditions = task.row, task.stages, task.chain.track
        plan = resolve(stages[-1].setting, self.handler.is_turbo)
        row |= effective_columns(plan)
        try:
            cut = cut_notes(self.handler, stages[-1].prompt(conditions.prompt), conditions.duration_s, plan)
            row["notes"] = [*row["notes"], *stages[-1].notes(conditions.prompt), *plan.notes, *cut]
            what = f"item {row['item_id']} of track {task.track['track_id']}"
            self.guarded(row["item_id"], what, lambda guard: self._make(guard, task))
        except Exception as error:
            return None if self._stops(error) else row | self.failure(error)
        row |= {"status": "ok", "finished_at": datetime.now(UTC)}
        try:
            write_receipt(self.spec.output, row)
        except OSError as error:
            log.warning("no receipt for %s: %s", row["item_id"], error)
            self._stops(error)
        return row

    def _make(self, guard: AttemptGuard, task: CoverTask) -> None:
        """Make or find one cover, measure it, and fill in its row as far as possible."""
        row = task.row
        row["attempt"] = guard.attempt
        found = find_cover(self.spec.output, row["track_id"], row["item_id"]) if self.spec.repair else None
        columns, wave = found or self._made(task)
        row |= columns
        if found:
            row["notes"] = [*row["notes"], FOUND]
        caption = task.stages[-1].prompt(task.chain.track.prompt).caption
        row |= self.evaluator.measure(task.features, wave, caption, task.covers)

    def _made(self, task: CoverTask) -> tuple[dict[str, Any], Tensor]:
        """Make a cover and write it: result columns, and the wave ``[2, n]``."""
        row = task.row
        with self.device_lock:
            cover = self.cover(row["item_id"], task.chain, task.stages, row["seed"])
        started, wave = time.perf_counter(), self.finished(task.track, cover.wave)
        content, extension = self.encoded(task.track, wave)
        path = f"audio/{row['track_id']}/{row['item_id']}.{extension}"
        self.spec.output.remove_unfinished(path)
        self.spec.output.write(path, content)
        columns = file_columns(path, content, wave.shape[1], SAMPLE_RATE)
        columns |= {"denoise_s": cover.denoise_s, "decode_s": cover.decode_s}
        return columns | {"write_s": time.perf_counter() - started}, wave

    @property
    def _stopping(self) -> bool:
        return self.stop is not None and self.stop.requested

    def _stops(self, error: Exception) -> bool:
        """Stop the job if an error is the output folder's; returns whether it does. A service goes on."""
        if self.stop is None or not isinstance(error, OutputError):
            return False
        here = "" if platform.node() == self.spec.node else f" (on {platform.node()})"
        self.stop.request(f"{error}{here}")
        return True
