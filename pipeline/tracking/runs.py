"""MLflow runs: opens, resumes and updates the runs of an output folder. Every call may raise."""

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from acestep.redaction import redacted_values
from pipeline.catalogue.own_columns import META
from pipeline.report.findings import Findings
from pipeline.results.job_file_reader import read_record
from pipeline.results.queries import count_kinds, first_rows
from pipeline.results.reader import current_rows
from pipeline.results.writer import without_passwords
from pipeline.storage.audio_files import fetch_cover
from pipeline.storage.store import Store
from pipeline.tracking.artifacts import log_files, log_rows, log_table
from pipeline.tracking.metrics import FAILED, REJECTED, RENAMED, job_metrics, measures, setting_metrics
from pipeline.tracking.preflight import check, usable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)
# A key rather than the path, which may hold characters that a search filter cannot, and changes when moved.
TAG_KEY, TAG_OUTPUT = "restyle.key", "restyle.output"
TAG_SETTING, TAG_KIND = "restyle.setting", "restyle.kind"
SAMPLES = 3
PAGE_RUNS = 1000
MAX_ARTIFACT_ROWS = 50_000  # above, the results artifact has fewer columns


class SettingLike(Protocol):
    """The attributes of a setting that its run needs."""

    @property
    def setting_id(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def varied(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class OpenRuns:
    """The open runs of one output folder.

    experiment: its id; settings: run ids by setting id; opened_ms: when the job run was first opened, since 1970.
    metrics: names of the metrics that each run has.
    """

    experiment: str
    job: str
    settings: Mapping[str, str]
    opened_ms: int
    metrics: Mapping[str, frozenset[str]]

    @property
    def all(self) -> list[str]:
        return [self.job, *self.settings.values()]


def import_client() -> None:
    """Import and configure MLflow, which takes a second. Call it from the main thread."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # With MLflow's defaults a job waits a quarter of an hour for a server that is down or hangs.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks of reported errors
    import mlflow
    import mlflow.entities  # noqa: F401


def connect(uri: str) -> "MlflowClient":
    """A client of a tracker that has just answered; use one per thread.

    Raises:
        Exception: it does not accept runs; ``pipeline.tracking.faults.fault_of`` gives the reason.
    """
    from mlflow import MlflowClient

    check(uri)
    return MlflowClient(tracking_uri=uri)


def open_runs(
    client: "MlflowClient",
    experiment: str,
    artifacts: str | None,
    folder: str,
    keys: Sequence[str],
    parameters: Mapping[str, Any],
    settings: Sequence[SettingLike],
    labels: Mapping[str, str],
) -> OpenRuns:
    """Open or resume the job run and the setting runs of an output folder.

    Other runs of the folder that are still marked as running belong to an interrupted launch, and are marked as
    killed.

    Args:
        artifacts: artifact location of a new experiment; None is the server's default.
        keys: tracking keys of the folder's runs; the first is the current one.
        parameters: of the job run.
        labels: tags of every run.
    """
    found = usable(client.get_experiment_by_name(experiment), client.tracking_uri)
    if found:
        place = found.experiment_id
    else:
        place = client.create_experiment(experiment, artifact_location=artifacts)
        usable(client.get_experiment(place), client.tracking_uri)
    labels = {**labels, TAG_KEY: keys[0], TAG_OUTPUT: folder}
    there: dict[tuple[str | None, str | None], Run] = {}
    others: list[Run] = []
    for run in _runs_of(client, place, keys):  # newest first, so that the oldest of a kind is kept
        kind = (run.data.tags.get(TAG_KIND), run.data.tags.get(TAG_SETTING))
        if kind in there:
            others.append(there[kind])
        there[kind] = run

    def opened(name: str, tags: dict[str, str], values: Mapping[str, Any]) -> "Run":
        run = there.pop((tags[TAG_KIND], tags.get(TAG_SETTING)), None)
        if run is None:
            run = client.create_run(place, tags=labels | tags, run_name=name)
        else:
            client.update_run(run.info.run_id, status="RUNNING", name=name)
            for label, text in labels.items():
                if run.data.tags.get(label) != text:
                    client.set_tag(run.info.run_id, label, text)
        _log_parameters(client, run, values)
        return run

    job = opened(experiment, {TAG_KIND: "job"}, parameters)
    own = {
        setting.setting_id: opened(
            setting.name, {TAG_KIND: "setting", TAG_SETTING: setting.setting_id}, setting.varied
        )
        for setting in settings
    }
    for run in [*others, *there.values()]:
        if run.info.status == "RUNNING":
            client.set_terminated(run.info.run_id, status="KILLED")
    return OpenRuns(
        experiment=place,
        job=job.info.run_id,
        settings={setting_id: run.info.run_id for setting_id, run in own.items()},
        opened_ms=job.info.start_time,
        metrics={run.info.run_id: frozenset(run.data.metrics) for run in (job, *own.values())},
    )


def _runs_of(client: "MlflowClient", experiment: str, keys: Sequence[str]) -> "Iterator[Run]":
    for key in dict.fromkeys(keys):
        token = None
        while True:
            condition = f"tags.`{TAG_KEY}` = '{key}'"
            page = client.search_runs([experiment], condition, max_results=PAGE_RUNS, page_token=token)
            yield from page
            token = page.token
            if not token:
                break


def _log_parameters(client: "MlflowClient", run: "Run", values: Mapping[str, Any]) -> None:
    """Log new parameters. MLflow does not allow changes; job.json has the current values."""
    from mlflow.entities import Param

    known = run.data.params
    new = [Param(name, str(value)) for name, value in values.items() if name not in known]
    if new:
        client.log_batch(run.info.run_id, params=new)


def log_metrics(
    client: "MlflowClient", run: str, values: Mapping[str, float], at_ms: int | None = None, step: int = 0
) -> None:
    """Log metrics of one moment, by default now.

    Args:
        at_ms: milliseconds since 1970.
    """
    from mlflow.entities import Metric

    at_ms = int(time.time() * 1000) if at_ms is None else at_ms
    client.log_batch(run, metrics=[Metric(name, float(value), at_ms, step) for name, value in values.items()])


def log_setting(
    client: "MlflowClient",
    runs: OpenRuns,
    setting_id: str,
    rows: pa.Table,
    store: Store,
    findings: Findings | None,
) -> None:
    """Log the results of one setting, and end its run."""
    run = runs.settings[setting_id]
    # The order matters: MLflow's views open on the first metric.
    found = setting_metrics(findings, setting_id) if findings else {}
    log_metrics(client, run, _with_earlier(runs, run, found | measures(rows)))
    if findings:
        log_table(client, run, findings, setting_id)
    _log_samples(client, run, rows, store)
    client.set_terminated(run)


def log_job(
    client: "MlflowClient", runs: OpenRuns, rows: pa.Table, findings: Findings | None, more: Mapping[str, float]
) -> None:
    """Log the results of the whole job, and the metrics ``more``."""
    is_rejected = pc.equal(rows["status"], "rejected")
    rejected = rows.filter(is_rejected)
    kinds = {f"{REJECTED}{kind}": count for kind, count in count_kinds(rejected).items()}
    totals = measures(rows.filter(pc.invert(is_rejected))) | {"tracks_rejected": len(rejected)} | kinds
    if findings:
        totals |= job_metrics(findings)
        log_files(client, runs.job, findings)
    log_metrics(client, runs.job, _with_earlier(runs, runs.job, totals | dict(more)))


def _with_earlier(runs: OpenRuns, run: str, values: Mapping[str, float]) -> dict[str, float]:
    """Values, with updates of outdated metrics of an earlier launch.

    Counts of error kinds that no longer occur are set to zero; metrics under former names are updated.
    """
    known = runs.metrics[run]
    mended = {name: 0.0 for name in known if name.startswith((FAILED, REJECTED)) and name not in values}
    renamed = {old: values[new] for old, new in RENAMED.items() if old in known and new in values}
    return dict(values) | mended | renamed


def _log_samples(client: "MlflowClient", run: str, rows: pa.Table, store: Store) -> None:
    """Log one cover each of a few tracks, except missing files."""
    ok = rows.filter(pc.equal(rows["status"], "ok")).select(["track_id", "audio_path"])
    first = ok.group_by("track_id", use_threads=False).aggregate([("audio_path", "first")])
    with tempfile.TemporaryDirectory() as folder:
        for row in first_rows(first, SAMPLES, "track_id", "ascending").to_pylist():
            path = row["audio_path_first"]
            copy = Path(folder) / f"{row['track_id']}.{path.rsplit('.', 1)[-1]}"
            try:
                copy.write_bytes(fetch_cover(store, path))
            except FileNotFoundError as error:
                log.warning("no sample of %s: %s", row["track_id"], error)
                continue
            client.log_artifact(run, str(copy), "samples")


def log_overview(client: "MlflowClient", run: str, results: pa.Table, store: Store, name: str) -> None:
    """Log the rows, the job file and the manifest to the job run.

    Args:
        name: of the manifest as a dataset.
    """
    from mlflow.data.pandas_dataset import from_pandas
    from mlflow.entities import DatasetInput, InputTag

    job = redacted_values(read_record(store))  # files of earlier versions may hold passwords
    results = without_passwords(results)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "results.parquet"
        ids = set(results["item_id"].to_pylist()) if len(results) <= MAX_ARTIFACT_ROWS else None
        pq.write_table(results if ids is None else without_passwords(current_rows(store, ids)), table)
        client.log_artifact(run, str(table))
    shown = ["track_id", "setting_name", "status", "error_message", "duration_s", "denoise_s", "audio_path", META]
    log_rows(client, run, "results.json", results.select(shown))
    client.log_dict(run, job, "job.json")
    columns = ["track_id", "source", "caption"]
    manifest = results.select(columns).group_by(columns).aggregate([]).to_pandas()
    if len(manifest):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # two of MLflow's source kinds fit a local path
            dataset = from_pandas(manifest, source=job["job"].get("manifest") or "unknown", name=name)
        context = InputTag("mlflow.data.context", "manifest")
        client.log_inputs(run, [DatasetInput(dataset._to_mlflow_entity(), [context])])
