"""The worker: one loaded model, restyling one track at a time with all the settings it still needs.

Ray calls a worker from several threads. Each call reads and decodes its source, takes the device under one
lock, and encodes and writes outside it, so the next track is read while this one is denoised.
"""

import itertools
import json
import logging
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import pyarrow as pa
import torch
from torch import Tensor

from acestep.audio.files import EXTENSIONS, encode_audio, finish, read_audio
from acestep.audio.source_notes import SourceNote, of_reference
from acestep.checkpoints import hub
from acestep.checkpoints.checkpoint import fingerprint, folder_fingerprint
from acestep.checkpoints.file_stamps import file_stamp
from acestep.constants import NUMERICS_VERSION, SAMPLE_RATE
from acestep.errors import AudioError, RestyleError
from acestep.generation.chain import Chain, Cover, Key
from acestep.generation.conditions import TrackConditions, cut_notes, prepare
from acestep.generation.musical_facts import with_musical_facts
from acestep.generation.params import GenerationParams
from acestep.generation.stages import Stage, parse_stage
from acestep.handler import AceStepHandler
from acestep.language.language_model import LanguageModel
from acestep.language.prompt import Prompt
from acestep.runtime.timing import Stopwatch
from acestep.sampling.plan import CoverPlan, resolve
from pipeline.catalogue.own_columns import META
from pipeline.cluster.shutdown import StopFlag
from pipeline.metrics.evaluator import Evaluator, ListenResult
from pipeline.planning.items import effective_columns, item_columns
from pipeline.planning.schema import TRACKS
from pipeline.results.journal import LAST, TASK, receipt_of, write_receipt
from pipeline.results.repair import FOUND, find_cover
from pipeline.results.table import as_table, file_columns
from pipeline.storage.audio_files import read_planned
from pipeline.storage.output_store import OutputError
from pipeline.storage.read_timeout import ReadTimeout
from pipeline.storage.source_copy import SourceCopy
from pipeline.storage.source_errors import ReadStoppedError, SourceError
from pipeline.worker.attempts import AttemptGuard, is_marked
from pipeline.worker.error_rows import outcome, ran_out_of_memory, release_memory
from pipeline.worker.shared_lock import SharedLock
from pipeline.worker.spec import WorkerSpec
from pipeline.worker.startup import worker_is_ready

log = logging.getLogger(__name__)
Result = TypeVar("Result")
NEVER_GIVEN_UP = 10**9
FACTS = ("language", "bpm", "keyscale", "timesignature")


@dataclass(frozen=True)
class OpenedSource:
    """What all covers of a track have in common.

    heard: what measures need of the source.
    notes, kinds: on the source, for people and for programs.
    duration_s, read_s, condition_s: of the source, of reading it and of its conditions, in seconds.
    """

    conditions: TrackConditions
    heard: ListenResult | None
    notes: list[str]
    kinds: list[str]
    duration_s: float
    read_s: float
    condition_s: float


class RestyleWorker:
    """A Ray actor: plan rows in, result rows out, each as soon as its cover is written.

    No exception of a track leaves it.
    """

    def __init__(self, spec: WorkerSpec, stop: StopFlag | None = None):
        """Load the model.

        Args:
            stop: tells when to begin nothing new; None never does.

        Raises:
            RestyleError: this node does not see the driver's output folder, or its model.
        """
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        stopwatch = Stopwatch()
        self.spec, self.stop = spec, stop
        self.device_lock, self.sharing = threading.RLock(), SharedLock()
        if not is_marked(spec.output, spec.launch):
            raise RestyleError(
                f"node {platform.node()} does not see the output folder {spec.output.root}; use a folder that all "
                "nodes share, or an object store"
            )
        stopwatch.lap("checks")
        self.handler = AceStepHandler.from_checkpoint(
            spec.model, spec.variant, spec.device, spec.dtype, spec.adapter, spec.adapter_scale, spec.compiled
        )
        stopwatch.lap("model")
        self.language_model = (
            LanguageModel.from_checkpoint(
                hub.find_language_model(spec.language_model), self.handler.device, self.handler.dtype
            )
            if spec.language_model
            else None
        )
        stopwatch.lap("language model")
        self._refuse_other_weights()  # now, since they may change until they are loaded
        stopwatch.lap("check of the weights")
        self.evaluator = Evaluator(spec.metrics, self.handler.device, self.device_lock)
        stopwatch.lap("measures")
        stopwatch.seconds.pop("model")
        worker_is_ready(spec.output, spec.launch, {**self.handler.load_s, **stopwatch.seconds})

    def _refuse_other_weights(self) -> None:
        """Refuse weights that are not those that the covers are named by.

        Raises:
            RestyleError: naming both.
        """
        spec = self.spec
        folders = hub.find(spec.model, spec.variant)
        adapter = hub.find_adapter(spec.adapter) if spec.adapter else None
        language_model = hub.find_language_model(spec.language_model) if spec.language_model else None
        if file_stamp(folders, adapter, language_model) == spec.stamp:
            return
        for name, found, planned in (
            (spec.model, fingerprint(folders, adapter, spec.adapter_scale), spec.fingerprint),
            (
                spec.language_model,
                language_model and folder_fingerprint(language_model),
                spec.language_model_fingerprint,
            ),
        ):
            if found != planned:
                raise RestyleError(
                    f"node {platform.node()} has another {name} ({found}, planned was {planned}); give all nodes "
                    "the same weights, or launch again where they were replaced meanwhile"
                )

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Restyle tracks (rows of ``PLAN_SCHEMA``); yields a row of the result ``SCHEMA`` for each item.

        After a stop request, items that were not begun are left out.
        """
        tracks = list(itertools.chain(*batch[TRACKS].to_pylist()))
        task, last = tracks[0]["items"][0]["item_id"], tracks[-1]["items"][-1]["item_id"]
        for track in tracks:
            if not self._stopping:
                for row in self.restyle(track):
                    table = as_table([row]).append_column(TASK, [[task]])
                    yield table.append_column(LAST, [[row["item_id"] == last]])

    def restyle(self, track: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """All items of one track, in their order: Ray counts on it when it runs a task again."""
        finished = self._finished(track)
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

    def _finished(self, track: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The rows of items that were made before the task was begun again."""
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

    def _missing(self, track: dict[str, Any]) -> Iterator[dict[str, Any]]:
        shared = self._shared_columns(track)
        rows = [shared | item_columns(item) for item in track["items"]]
        try:
            chains = [tuple(map(parse_stage, json.loads(item["stages"]))) for item in track["items"]]
            plans = [resolve(stages[0].setting, self.handler.is_turbo) for stages in chains]
            name = track["track_id"]
            with ExitStack() as copies:
                read_at = time.perf_counter()
                files = self._fetch(
                    track
                )  # beside no work that may have to be alone: a read that hangs holds nobody up
                read_s = time.perf_counter() - read_at
                for copy in filter(None, files):
                    copies.enter_context(copy.file)
                source = self._guarded(
                    f"{name}-source",
                    f"the source of track {name}",
                    lambda guard: self._opened(track, plans, *files),
                )
            keys = list(zip(chains, (row["seed"] for row in rows), strict=True))
            chain = self.chain(track, source.conditions, keys)
        except ReadStoppedError:
            return
        except Exception as error:
            if self._stops(error):
                return
            found = outcome(error)
            message = f"{track['source']}: {found['error_message']}"
            yield from (row | found | {"error_message": message} for row in rows)
            return
        shared = {
            "notes": [*track["notes"], *source.notes],
            "source_notes": source.kinds,
            "source_duration_s": source.duration_s,
            "read_s": (read_s + source.read_s) / len(rows),
            "condition_s": source.condition_s / len(rows),
            **{name: getattr(source.conditions.prompt, name) for name in FACTS},
        }
        for row, stages in zip(rows, chains, strict=True):
            if self._stopping:
                return
            made = self._item(track, row | shared, stages, chain, source.heard, len(rows))
            if made is None:
                return
            yield made

    def _fetch(self, track: dict[str, Any]) -> tuple[SourceCopy, SourceCopy | None]:
        """The bytes of the source and the timbre reference that the items were planned by."""
        name = f"{self.spec.launch}/{track['track_id']}-fetch"
        with AttemptGuard(self.spec.output, name, NEVER_GIVEN_UP, f"reading {track['source']}"):
            timeout = ReadTimeout(self.spec.source_timeout_s, self.unwanted)
            source = read_planned(track["source"], track.get("source_digest") or "", timeout)
            if not track["reference"]:
                return source, None
            with _of_reference(track):
                return source, read_planned(track["reference"], track.get("reference_digest") or "", timeout)

    def _opened(
        self, track: dict[str, Any], plans: Sequence[CoverPlan], source: SourceCopy, reference: SourceCopy | None
    ) -> "OpenedSource":
        """Decode a track's source, and do with it what all of its items have in common."""
        read_at = time.perf_counter()
        wave, clip, told = self._read(track, source, reference)
        read_s = time.perf_counter() - read_at
        with self.device_lock:
            started = time.perf_counter()
            conditions, notes = self.listen(track, wave, clip, plans)
            condition_s = time.perf_counter() - started
        return OpenedSource(
            conditions=conditions,
            heard=self.evaluator.listen(wave),
            notes=[*(note.text for note in told), *notes],
            kinds=list(dict.fromkeys(note.kind for note in told)),
            duration_s=wave.shape[1] / SAMPLE_RATE,
            read_s=read_s,
            condition_s=condition_s,
        )

    def _read(
        self, track: dict[str, Any], source: SourceCopy, reference: SourceCopy | None
    ) -> tuple[Tensor, Tensor | None, list[SourceNote]]:
        """The source and the timbre reference ``[2, n]``, and what is worth knowing of them."""
        source.file.seek(0)  # it may be read a second time
        heard = read_audio(source.file, self.spec.max_seconds)
        if reference is None:
            return heard.wave, None, list(heard.notes)
        reference.file.seek(0)
        with _of_reference(track):
            clip = read_audio(reference.file, self.spec.max_seconds)
        return heard.wave, clip.wave, [*heard.notes, *of_reference(clip.notes, track["reference"])]

    def unwanted(self) -> bool:
        """Whether a read that takes long can be abandoned."""
        return self._stopping

    def listen(
        self, track: dict[str, Any], source: Tensor, reference: Tensor | None, plans: Sequence[CoverPlan]
    ) -> tuple[TrackConditions, list[str]]:
        """What all items of a track have in common, and notes on it; the worker holds the device."""
        prompt, asked = Prompt(**json.loads(track["prompt"])), self.asked(track)
        conditions = prepare(self.handler, source, prompt, plans, reference, encode=asked is not None)
        notes: list[str] = []
        if asked is not None and self.language_model is not None:
            conditions, notes = with_musical_facts(self.language_model, conditions, asked)
        self.handler.synchronize()
        if reference is None and any(plan.reference_pick != "fixed" for plan in plans):
            notes.append("reference_pick has no effect: there is no reference_audio")
        return conditions, notes

    def asked(self, track: dict[str, Any]) -> GenerationParams | None:
        """How the language model is asked about a track; None where it is not."""
        return GenerationParams() if self.language_model is not None else None

    def chain(self, track: dict[str, Any], conditions: TrackConditions, keys: Sequence[Key]) -> Chain:
        """What makes all covers of a track."""
        return Chain(conditions, keys)

    def cover(self, item_id: str, chain: Chain, stages: tuple[Stage, ...], seed: int) -> Cover:
        """One item's cover; the worker holds the device."""
        return chain.run(stages, seed)

    def finished(self, track: dict[str, Any], wave: Tensor) -> Tensor:
        """A decoded ``[2, n]`` as it is written and measured."""
        return finish(wave)

    def encoded(self, track: dict[str, Any], wave: Tensor) -> tuple[bytes, str]:
        """The content of an audio file and its extension."""
        audio_format = self.spec.audio_format
        return encode_audio(wave, audio_format), EXTENSIONS.get(audio_format, audio_format)

    def _item(
        self,
        track: dict[str, Any],
        row: dict[str, Any],
        stages: tuple[Stage, ...],
        chain: Chain,
        heard: ListenResult | None,
        covers: int,
    ) -> dict[str, Any] | None:
        """The row of one cover; None where the output folder failed, which ends the job."""
        plan = resolve(stages[-1].setting, self.handler.is_turbo)
        row = row | effective_columns(plan)
        try:
            prompt = stages[-1].prompt(chain.track.prompt)
            cut = cut_notes(self.handler, prompt, chain.track.duration_s, plan)
            row["notes"] = [*row["notes"], *stages[-1].notes(chain.track.prompt), *plan.notes, *cut]
            what = f"item {row['item_id']} of track {track['track_id']}"
            self._guarded(
                row["item_id"], what, lambda guard: self._make(guard, track, row, stages, chain, heard, covers)
            )
        except Exception as error:
            return None if self._stops(error) else row | outcome(error)
        row |= {"status": "ok", "finished_at": datetime.now(UTC)}
        try:
            write_receipt(self.spec.output, row)
        except OSError as error:
            log.warning("no receipt for %s: %s", row["item_id"], error)
            self._stops(error)
        return row

    def _make(
        self,
        guard: AttemptGuard,
        track: dict[str, Any],
        row: dict[str, Any],
        stages: tuple[Stage, ...],
        chain: Chain,
        heard: ListenResult | None,
        covers: int,
    ) -> None:
        """Make or find one cover and measure it, and fill its row in as far as that comes."""
        row["attempt"] = guard.attempt
        found = find_cover(self.spec.output, row["track_id"], row["item_id"]) if self.spec.repair else None
        made, wave = found or self._made(track, row, stages, chain)
        row |= made
        if found:
            row["notes"] = [*row["notes"], FOUND]
        row |= self.evaluator.measure(heard, wave, stages[-1].prompt(chain.track.prompt).caption, covers)

    def _made(
        self, track: dict[str, Any], row: dict[str, Any], stages: tuple[Stage, ...], chain: Chain
    ) -> tuple[dict[str, Any], Tensor]:
        """Make an item's cover and write it: result columns, and the wave ``[2, n]``."""
        with self.device_lock:
            cover = self.cover(row["item_id"], chain, stages, row["seed"])
        started, wave = time.perf_counter(), self.finished(track, cover.wave)
        columns = self._write(row, wave, *self.encoded(track, wave))
        spent = {"denoise_s": cover.denoise_s, "decode_s": cover.decode_s}
        return columns | spent | {"write_s": time.perf_counter() - started}, wave

    @property
    def _stopping(self) -> bool:
        return self.stop is not None and self.stop.lowered

    def _stops(self, error: Exception) -> bool:
        """Whether an error is the output folder's, which then stops the job; a service goes on."""
        if self.stop is None or not isinstance(error, OutputError):
            return False
        here = "" if platform.node() == self.spec.node else f" (on {platform.node()})"
        self.stop.lower(f"{error}{here}")
        return True

    def _guarded(self, name: str, what: str, work: Callable[[AttemptGuard], Result]) -> Result:
        """Do work of one track beside that of others.

        It is done alone where it took the process down before, and once more where memory ran out, so that only
        the guilty is blamed.
        """
        guard = AttemptGuard(self.spec.output, f"{self.spec.launch}/{name}", self.spec.max_attempts, what)
        if guard.attempt == 1:
            try:
                with self.sharing.together(), guard:
                    return work(guard)
            except Exception as error:
                if not ran_out_of_memory(error):
                    raise
                log.warning("%s: %s; trying again without others beside it", what, error)
        with self.sharing.alone():
            release_memory()
            with guard:
                return work(guard)

    def _write(self, row: dict[str, Any], wave: Tensor, content: bytes, extension: str) -> dict[str, Any]:
        path = f"audio/{row['track_id']}/{row['item_id']}.{extension}"
        self.spec.output.remove_unfinished(path)
        self.spec.output.write(path, content)
        return file_columns(path, content, wave.shape[1], SAMPLE_RATE)

    def _shared_columns(self, track: dict[str, Any]) -> dict[str, Any]:
        return {
            "track_id": track["track_id"],
            "source": track["source"],
            "reference_audio": track["reference"],
            "caption": json.loads(track["prompt"])["caption"],
            "preset": track["preset"],
            "notes": track["notes"],
            META: track.get(META),
            "source_duration_s": track["source_duration_s"],
            "model": self.spec.model,
            "model_fingerprint": self.spec.fingerprint,
            "dtype": self.spec.dtype,
            "numerics_version": NUMERICS_VERSION,
            "node": platform.node(),
        }


@contextmanager
def _of_reference(track: dict[str, Any]) -> Iterator[None]:
    """Say of an error of the block that it is the reference's, not the source's."""
    try:
        yield
    except (AudioError, SourceError) as error:
        raise type(error)(f"its reference_audio {track['reference']}: {error}") from error
