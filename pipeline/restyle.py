"""The catalogue job: manifest -> plan -> pool of workers -> results -> tracking."""

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from acestep import hub
from acestep.adapter import check_scale
from acestep.audio import FORMATS
from acestep.checkpoint import CheckpointFolders, fingerprint, folder_fingerprint
from acestep.constants import MAX_SOURCE_SECONDS, NUMERICS_VERSION
from acestep.errors import RequestError
from acestep.handler import DTYPES
from acestep.stages import WORDS, overridden
from acestep.verify import verify
from pipeline.actors import ATTEMPTS, WorkerSpec
from pipeline.items import ModelFacts
from pipeline.manifest import read_manifest
from pipeline.plan import Plan, make_plan
from pipeline.presets import Preset, check_preset
from pipeline.results import REJECTED, RESULTS, ResultWriter, as_table, current_rows, finished_items
from pipeline.settings import Setting, distinct, make_settings
from pipeline.stages import ClusterSpec, Pool, connect, size_pool, stream
from pipeline.storage import Store, open_store
from pipeline.tracking import Tracker, TrackingSpec

PLAN_FILE = "plan.parquet"
JOB_FILE = "job.json"
PACKAGES = ("torch", "torchaudio", "transformers", "ray", "pyarrow", "mlflow", "soundfile", "av")


@dataclass(frozen=True)
class RestyleJob:
    """One launch: what to restyle, with what, into which folder.

    cover: every setting parameter by name, the seed included; grid: those to sweep, each a value or a list.
    duplicates: what to do where the grid holds settings that give the same audio: "refuse" or "run_once".
    stages: covers to make one after the other, each a mapping of a caption, lyrics and parameters laid over cover.
    presets: what manifest rows may name by their genres; by_hand: the names in ``cover`` that such a preset leaves
        alone, since they were asked for.
    caption: for rows that have none.
    language_model: a 5 Hz language model that listens to each source and fills in the bpm, key, time signature
        and language that its row leaves open.
    max_attempts: how often an item may take a worker process down before it is rejected, at least 2.
    retry_failed: run again what an earlier launch on the folder could not.
    """

    manifest: str
    output: str
    cover: Mapping[str, Any]
    grid: Mapping[str, Any] = field(default_factory=dict)
    duplicates: str = "refuse"
    stages: Sequence[Mapping[str, Any]] = ()
    presets: Sequence[Preset] = ()
    by_hand: Collection[str] = ()
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
    catalogue: str | None = None
    cluster: ClusterSpec = field(default_factory=ClusterSpec)
    tracking: TrackingSpec = field(default_factory=TrackingSpec)

    @property
    def name(self) -> str:
        """The catalogue's name: as given, else the manifest's file name."""
        return self.catalogue or self.manifest.rsplit("/", 1)[-1].rsplit(".", 1)[0]


@dataclass(frozen=True)
class Summary:
    """How a job ended: counts of all its items, whichever launch made them; ``new`` is of this launch."""

    ok: int
    failed: int
    rejected: int
    new: int
    audio_s: float
    seconds: float
    problems: pa.Table
    tracking: Mapping[str, str]

    @property
    def complete(self) -> bool:
        return not self.failed and not self.rejected


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
    tracks, bad_rows = read_manifest(job.manifest, presets, job.caption)
    settings = make_settings(job.cover, job.grid, job.stages)
    listener = hub.find_language_model(job.language_model) if job.language_model else None
    folders = hub.find(job.model, job.variant)
    adapter = hub.find_adapter(job.adapter) if job.adapter else None
    is_turbo = check_model(folders, adapter)
    settings = distinct(settings, is_turbo, job.duplicates)
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
    finished = finished_items(output, job.retry_failed)
    plan = make_plan(
        tracks,
        bad_rows,
        settings,
        model,
        job.audio_format,
        finished,
        job.max_source_seconds,
        overridden(job.stages),
        job.by_hand,
    )
    reporter.planned(job, plan, settings, model, pool)
    write_job_file(job, output, model, pool, settings)
    constant = job_parameters(job, model, settings)
    tracker.begin(constant, settings, reporter.warned)

    results = ResultWriter(output, RESULTS)
    rejected = ResultWriter(output, REJECTED)
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
    rows = current_rows(output, plan.ids)
    summary = summarize(rows, new, time.perf_counter() - started)
    links = tracker.finish(rows, summary.seconds, reporter.warned)
    return replace(summary, tracking=links)


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


def job_parameters(job: RestyleJob, model: ModelFacts, settings: list[Setting]) -> dict[str, Any]:
    """What is the same for all settings of a job, by name, as it really runs."""
    first = settings[0].plans(model.is_turbo)[-1]
    values = settings[0].values() | {
        "inference_steps": first.inference_steps,
        "guidance_scale": first.guidance_scale,
    }
    differs = {*settings[0].varied, *overridden(job.stages), *WORDS}
    constant = {name: value for name, value in values.items() if name not in differs}
    if job.adapter:
        constant |= {"adapter": job.adapter, "adapter_scale": job.adapter_scale}
    return constant | {
        "manifest": job.manifest,
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "dtype": model.dtype,
        "numerics_version": NUMERICS_VERSION,
        "audio_format": job.audio_format,
        "settings": len(settings),
    }


def write_job_file(job: RestyleJob, output: Store, model: ModelFacts, pool: Pool, settings: list[Setting]) -> None:
    """Write down what this launch runs, for whoever opens the folder later."""
    content = {
        "job": asdict(job),
        "model": asdict(model),
        "pool": asdict(pool),
        "settings": [
            {"setting_id": s.setting_id, "name": s.name, "stands_for": s.stands_for, **s.values()}
            for s in settings
        ],
        "versions": {name: version(name) for name in PACKAGES} | {"numerics": NUMERICS_VERSION},
        "cuda": torch.version.cuda,
        "launched_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    output.write(JOB_FILE, json.dumps(content, indent=2).encode())


def summarize(rows: pa.Table, new: int, seconds: float) -> Summary:
    """Counts of a job's rows, and those that are not ok."""
    counts = {entry["values"]: entry["counts"] for entry in rows["status"].value_counts().to_pylist()}
    problems = rows.filter(pa.compute.not_equal(rows["status"], "ok"))
    return Summary(
        ok=counts.get("ok", 0),
        failed=counts.get("failed", 0),
        rejected=counts.get("rejected", 0),
        new=new,
        audio_s=pa.compute.sum(rows["duration_s"]).as_py() or 0.0,
        seconds=seconds,
        problems=problems,
        tracking={},
    )
