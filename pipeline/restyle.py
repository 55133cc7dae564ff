"""The catalogue job: manifest -> plan -> pool of workers -> results -> tracking."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from acestep import hub
from acestep.adapter import check_scale
from acestep.audio import FORMATS
from acestep.checkpoint import CheckpointFolders, fingerprint, folder_fingerprint
from acestep.constants import MAX_SOURCE_SECONDS
from acestep.errors import RequestError
from acestep.handler import DTYPES
from acestep.language_model import open_language_model
from acestep.verify import verify
from pipeline.actors import ATTEMPTS, WorkerSpec
from pipeline.items import ModelFacts, Rules
from pipeline.manifest import Track, read_manifest
from pipeline.plan import Plan, make_plan
from pipeline.presets import Preset, check_preset
from pipeline.probe import Probes
from pipeline.record import job_parameters, write_job_file
from pipeline.results import (
    REJECTED,
    RESULTS,
    ResultWriter,
    as_table,
    current_rows,
    finished_items,
    made_with,
)
from pipeline.settings import Setting, distinct, make_settings
from pipeline.stages import ClusterSpec, Pool, connect, size_pool, stream
from pipeline.storage import Store, open_store
from pipeline.summary import SUMMARY_COLUMNS, Summary, summarize
from pipeline.tracking import Tracker, TrackingSpec

PLAN_FILE = "plan.parquet"


@dataclass(frozen=True)
class RestyleJob:
    """One launch: what to restyle, with what, into which folder.

    cover: every setting parameter by name, the seed included; grid: those to sweep, each a value or a list.
    duplicates: what to do where the grid holds settings that give the same audio: "refuse" or "run_once".
    stages: covers to make one after the other, each a mapping of a caption, lyrics and parameters laid over cover.
    presets: what manifest rows may name by their genres; by_hand: the names in ``cover`` that such a preset leaves
        alone, since they were asked for.
    preset, caption: the job's own preset, and a caption for rows that have none.
    language_model: a 5 Hz language model that listens to each source and fills in the bpm, key, time signature
        and language that its row leaves open.
    max_attempts: how often an item may take a worker process down before it is rejected, at least 2.
    retry_failed: run again what an earlier launch on the folder could not.
    mix_models: allow covers of different models in one folder.
    """

    manifest: str
    output: str
    cover: Mapping[str, Any]
    grid: Mapping[str, Any] = field(default_factory=dict)
    duplicates: str = "refuse"
    stages: Sequence[Mapping[str, Any]] = ()
    presets: Sequence[Preset] = ()
    by_hand: Sequence[str] = ()
    preset: str | None = None
    caption: str = ""
    language_model: str | None = None
    model: str = "demo"
    variant: str | None = None
    adapter: str | None = None
    adapter_scale: float = 1.0
    dtype: str | None = None
    audio_format: str = "flac"
    max_source_seconds: float = MAX_SOURCE_SECONDS
    max_attempts: int = 3
    retry_failed: bool = False
    mix_models: bool = False
    catalogue: str | None = None
    cluster: ClusterSpec = field(default_factory=ClusterSpec)
    tracking: TrackingSpec = field(default_factory=TrackingSpec)

    @property
    def name(self) -> str:
        """The catalogue's name: as given, else the manifest's file name."""
        return self.catalogue or self.manifest.rsplit("/", 1)[-1].rsplit(".", 1)[0]


class Reporter(Protocol):
    """What a job tells whoever watches it."""

    def planned(self, job: RestyleJob, plan: Plan, settings: list[Setting], model: ModelFacts, pool: Pool) -> None:
        """Before the first track."""

    def advanced(self, table: pa.Table) -> None:
        """Result rows of one more track."""

    def warned(self, message: str) -> None:
        """Something went wrong that does not stop the job."""


def run(job: RestyleJob, reporter: Reporter) -> Summary:
    """Restyle a catalogue; a second run on the same folder does what is missing.

    Raises:
        RestyleError: nothing could start (manifest, model, setting, cluster or output folder).
        PoolError: the workers broke off; what was finished before is kept.
    """
    started = time.perf_counter()
    if job.audio_format not in FORMATS:
        raise RequestError(f"audio_format {job.audio_format!r} is unknown; use one of {', '.join(FORMATS)}")
    if job.dtype is not None and job.dtype not in DTYPES:
        raise RequestError(f"dtype {job.dtype!r} is unknown; use one of {', '.join(DTYPES)}")
    if job.max_attempts < 2:
        raise RequestError(
            f"max_attempts {job.max_attempts}: a death may be a neighbour's fault; allow at least 2"
        )
    check_scale(job.adapter_scale)
    output = open_output(job.output)
    presets = [check_preset(preset) for preset in job.presets]
    rows = read_manifest(job.manifest, presets, job.caption)
    first = next(rows)
    settings = make_settings(job.cover, job.grid, job.stages)
    listener = hub.find_language_model(job.language_model) if job.language_model else None
    if listener is not None:
        open_language_model(listener)
    folders = hub.find(job.model, job.variant)
    adapter = hub.find_adapter(job.adapter) if job.adapter else None
    is_turbo = check_model(folders, adapter)
    if job.duplicates == "refuse" and isinstance(first, Track) and not (first.overrides or first.preset):
        distinct(settings, is_turbo)
    tracker = Tracker(job.tracking, job.name, output, job.output)
    connect(job.cluster)
    pool = size_pool(job.cluster)
    dtype = job.dtype or ("bfloat16" if pool.gpus_per_worker else "float32")
    model = ModelFacts(
        name=job.model,
        fingerprint=fingerprint(folders, adapter, job.adapter_scale),
        is_turbo=is_turbo,
        dtype=dtype,
        language_model=folder_fingerprint(listener) if listener else None,
    )
    refuse_other_models(output, model, job.mix_models)
    results, rejected = ResultWriter(output, RESULTS), ResultWriter(output, REJECTED)
    rules = Rules(
        settings=settings,
        model=model,
        audio_format=job.audio_format,
        most_seconds=job.max_source_seconds,
        by_hand=_by_hand(job),
        duplicates=job.duplicates,
        preset=job.preset,
    )
    finished = finished_items(output, job.retry_failed)
    plan = make_plan(chain([first], rows), rules, finished, Probes(output, results.launch).of)
    del finished
    settings = _run(settings, plan, job.duplicates, is_turbo)
    reporter.planned(job, plan, settings, model, pool)
    write_job_file(job, output, model, pool, settings)
    constant = job_parameters(job, model, settings)
    tracker.begin(constant, settings, reporter.warned)

    new = 0

    def keep(table: pa.Table) -> None:
        nonlocal new
        new += len(table)
        refused = pa.compute.equal(table["status"], "rejected")
        results.add(table.filter(pa.compute.invert(refused)))
        rejected.add(table.filter(refused))

    try:
        keep(as_table(plan.failed + plan.rejected))
        if len(plan.rows):
            for table in _stream(plan, output, job, model, pool, results.launch):
                keep(table)
                reporter.advanced(table)
    except BaseException:
        tracker.abandon()
        raise
    finally:
        results.flush()
        rejected.flush()
    output.delete_folder(ATTEMPTS)
    made = current_rows(output, plan.ids, SUMMARY_COLUMNS)
    summary = summarize(made, new, time.perf_counter() - started)
    links = tracker.finish(made, summary.seconds, reporter.warned)
    return replace(summary, tracking=links)


def _by_hand(job: RestyleJob) -> list[str]:
    return [*job.by_hand, *(name for name, values in job.grid.items() if values is not None)]


def _run(settings: list[Setting], plan: Plan, duplicates: str, is_turbo: bool) -> list[Setting]:
    """The settings that some item has, each with the names of those it stands for."""
    if duplicates == "run_once":
        once = distinct(settings, is_turbo, duplicates)
        if plan.settings <= {setting.setting_id for setting in once}:
            settings = once
    return [setting for setting in settings if setting.setting_id in plan.settings] or settings


def refuse_other_models(output: Store, model: ModelFacts, mix_models: bool) -> None:
    """Refuse a folder that holds covers of another model.

    Raises:
        RequestError: it does, and mixing was not asked for.
    """
    others = made_with(output) - {model.fingerprint}
    if others and not mix_models:
        raise RequestError(
            f"the output folder holds covers made with another model ({', '.join(sorted(others))}, and this is "
            f"{model.fingerprint}); use another folder, or allow it with mix_models=true"
        )


def check_model(folders: CheckpointFolders, adapter: Path | None = None) -> bool:
    """Look at every file of a checkpoint and its adapter without loading the weights; True for a turbo model.

    Raises:
        CheckpointError: a part is missing, damaged or of another kind.
    """
    return verify(folders, adapter).is_turbo


def open_output(uri: str) -> Store:
    """The output folder, proven to be writable.

    Raises:
        RequestError: it cannot be written.
    """
    store = open_store(uri)
    try:
        store.write(".writable", b"")
        store.delete(".writable")
    except OSError as error:
        raise RequestError(f"output {uri}: cannot be written ({error})") from error
    return store


def _stream(
    plan: Plan, output: Store, job: RestyleJob, model: ModelFacts, pool: Pool, launch: str
) -> Iterator[pa.Table]:
    output.delete_folder(ATTEMPTS)
    buffer = pa.BufferOutputStream()
    pq.write_table(plan.rows, buffer, compression="zstd")
    output.write(PLAN_FILE, buffer.getvalue())
    worker = WorkerSpec(
        output=output,
        launch=launch,
        model=job.model,
        variant=job.variant,
        fingerprint=model.fingerprint,
        device="cuda" if pool.gpus_per_worker else "cpu",
        dtype=model.dtype,
        audio_format=job.audio_format,
        most_seconds=job.max_source_seconds,
        threads=pool.threads,
        max_attempts=job.max_attempts,
        adapter=job.adapter,
        adapter_scale=job.adapter_scale,
        language_model=job.language_model,
    )
    return stream(output, PLAN_FILE, worker, job.cluster, pool)
