"""MLflow: one job run for an output folder, one flat run for each setting.

The driver is the only client, and results are files before they are runs: a tracking server that is down costs a
warning. Setting runs carry as parameters only what varies between them, so that the compare views of the MLflow
UI open on the right axes. MLflow is imported when it is first needed, since that takes a second.
"""

import contextlib
import hashlib
import json
import logging
import os
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from acestep.errors import RequestError
from pipeline.results import current_rows
from pipeline.settings import Setting
from pipeline.storage import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

# The key is a digest of the folder, since a path may hold characters that a search filter cannot.
TAG_KEY, TAG_OUTPUT = "restyle.key", "restyle.output"
TAG_SETTING, TAG_KIND = "restyle.setting", "restyle.kind"
SAMPLES = 3
MOST_TABLE_ROWS = 2000
MOST_ARTIFACT_ROWS = 50_000  # of a larger catalogue the artifact holds fewer columns


@dataclass(frozen=True)
class TrackingSpec:
    """Where runs go.

    uri: any MLflow tracking URI; None is ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the output folder.
    """

    enabled: bool = True
    uri: str | None = None
    experiment: str | None = None


class Tracker:
    """The runs of one output folder; found again by a tag when the job is resumed."""

    def __init__(self, spec: TrackingSpec, catalogue: str, output: Store, output_uri: str):
        """Settle where to track, without connecting.

        Raises:
            RequestError: the output is remote and no tracking URI is given.
        """
        self.enabled = spec.enabled
        self.experiment = spec.experiment or catalogue
        self.output = output
        self.folder = output_uri if "://" in output_uri else output.root
        self.artifacts: str | None = None
        uri = spec.uri or os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None and spec.enabled:
            if not output.is_local:
                raise RequestError(
                    f"output {output_uri} is remote and no tracking server is named; set tracking.uri or "
                    "MLFLOW_TRACKING_URI, or tracking.enabled=false"
                )
            uri = f"sqlite:///{output.root}/mlflow.db"
        if uri is not None and uri.startswith("sqlite:///"):
            self.artifacts = (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()
        self.uri = uri or ""
        self.job_run: str | None = None
        self.setting_runs: dict[str, str] = {}
        self.settings: Sequence[Setting] = ()

    def begin(
        self, parameters: Mapping[str, Any], settings: Sequence[Setting], warn: Callable[[str], None]
    ) -> None:
        """Open the job run and the setting runs, or find them again."""
        if not self.enabled:
            return
        self.settings = settings
        try:
            client, experiment = self._connect()
            self.job_run = self._open_run(client, experiment, self.experiment, {TAG_KIND: "job"}, parameters)
            for setting in settings:
                tags = {TAG_KIND: "setting", TAG_SETTING: setting.setting_id}
                run = self._open_run(client, experiment, setting.name, tags, setting.varied)
                self.setting_runs[setting.setting_id] = run
        except Exception as error:
            self.enabled = False
            warn(
                f"not tracked: {self.uri} does not take runs ({_first_line(error)}); results are written as files"
            )

    def finish(self, rows: pa.Table, seconds: float, warn: Callable[[str], None]) -> dict[str, str]:
        """Log what came out, from the job's current rows.

        Returns:
            ``ui``, how to open the UI, and ``compare``, a link; empty where nothing is tracked.
        """
        if not self.enabled or self.job_run is None:
            return {}
        refused = pc.equal(rows["status"], "rejected")
        results = rows.filter(pc.invert(refused))
        try:
            client, experiment = self._connect()
            for setting in self.settings:
                own = results.filter(pc.equal(results["setting_id"], setting.setting_id))
                run = self.setting_runs[setting.setting_id]
                self._log(client, run, measures(own))
                self._log_samples(client, run, own)
                client.set_terminated(run)
            rejected = len(rows) - len(results)
            totals = measures(results) | {"tracks_rejected": rejected, "job_seconds": seconds}
            self._log(client, self.job_run, totals)
            links = self._links(experiment)
            self._log_overview(client, results, links)
            client.set_terminated(self.job_run)
        except Exception as error:
            warn(f"tracking is incomplete: {self.uri} stopped taking runs ({_first_line(error)})")
            return {}
        return links

    def abandon(self) -> None:
        """Mark the runs as stopped; the next launch takes them up again."""
        if not self.enabled or self.job_run is None:
            return
        with contextlib.suppress(Exception):  # the job is ending for a better reason
            client, _ = self._connect()
            for run in (self.job_run, *self.setting_runs.values()):
                client.set_terminated(run, status="KILLED")

    def _connect(self) -> "tuple[MlflowClient, str]":
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        # MLflow's own default keeps a job waiting for minutes when the server is down.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.uri)
        found = client.get_experiment_by_name(self.experiment)
        if found is not None:
            return client, found.experiment_id
        return client, client.create_experiment(self.experiment, artifact_location=self.artifacts)

    def _open_run(
        self,
        client: "MlflowClient",
        experiment: str,
        name: str,
        tags: Mapping[str, str],
        parameters: Mapping[str, Any],
    ) -> str:
        from mlflow.entities import Param, RunStatus

        tags = {TAG_KEY: hashlib.sha256(self.folder.encode()).hexdigest()[:16], **tags}
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = client.search_runs([experiment], filter_string=condition, max_results=1)
        if found:
            run, known = found[0].info.run_id, found[0].data.params
            client.update_run(run, status=RunStatus.to_string(RunStatus.RUNNING), name=name)
        else:
            run, known = client.create_run(experiment, tags=dict(tags), run_name=name).info.run_id, {}
            client.set_tag(run, TAG_OUTPUT, self.folder)
        # MLflow refuses to change a parameter: what an earlier launch logged stays.
        new = [Param(key, str(value)) for key, value in parameters.items() if key not in known]
        client.log_batch(run, params=new)
        return run

    def _log(self, client: "MlflowClient", run: str, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        client.log_batch(run, metrics=[Metric(key, float(value), now, 0) for key, value in values.items()])

    def _log_samples(self, client: "MlflowClient", run: str, rows: pa.Table) -> None:
        ok = rows.filter(pc.equal(rows["status"], "ok")).sort_by("track_id").slice(0, SAMPLES)
        with tempfile.TemporaryDirectory() as folder:
            for row in ok.select(["audio_path", "track_id"]).to_pylist():
                extension = row["audio_path"].rsplit(".", 1)[-1]
                copy = Path(folder) / f"{row['track_id']}.{extension}"
                copy.write_bytes(self.output.read(row["audio_path"]))
                client.log_artifact(run, str(copy), "samples")

    def _log_overview(self, client: "MlflowClient", results: pa.Table, links: Mapping[str, str]) -> None:
        from mlflow.data.pandas_dataset import from_pandas
        from mlflow.entities import DatasetInput, InputTag

        run = self.job_run
        assert run is not None
        job = json.loads(self.output.read("job.json"))
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "results.parquet"
            ids = set(results["item_id"].to_pylist()) if len(results) <= MOST_ARTIFACT_ROWS else None
            pq.write_table(results if ids is None else current_rows(self.output, ids), table)
            client.log_artifact(run, str(table))
        shown = ["track_id", "setting_name", "status", "error_message", "duration_s", "denoise_s", "audio_path"]
        # Written whole each time, and marked as a table by hand: log_table would append to an earlier launch's.
        shown_rows = results.select(shown).slice(0, MOST_TABLE_ROWS).to_pandas()
        client.log_text(run, shown_rows.to_json(orient="split", index=False), "results.json")
        client.set_tag(run, "mlflow.loggedArtifacts", json.dumps([{"path": "results.json", "type": "table"}]))
        client.log_dict(run, job, "job.json")
        columns = ["track_id", "source", "caption"]
        manifest = results.select(columns).group_by(columns).aggregate([]).to_pandas()
        if len(manifest):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # two of MLflow's source kinds fit a local path
                dataset = from_pandas(manifest, source=job["job"]["manifest"], name=self.experiment)
            context = InputTag("mlflow.data.context", "manifest")
            client.log_inputs(run, [DatasetInput(dataset._to_mlflow_entity(), [context])])
        client.set_tag(run, "mlflow.note.content", f"Compare the settings: {links['compare']}")

    def _links(self, experiment: str) -> dict[str, str]:
        if self.uri.startswith("http"):
            base, command = self.uri.rstrip("/"), f"open {self.uri}"
        else:
            base = "http://127.0.0.1:5000"
            words = (os.path.relpath(sys.executable), "-m", "mlflow", "ui", "--backend-store-uri", self.uri)
            command = shlex.join(words)
        runs = quote(json.dumps(list(self.setting_runs.values()), separators=(",", ":")))
        experiments = quote(json.dumps([experiment]))
        return {
            "ui": command,
            "compare": f"{base}/#/compare-runs?runs={runs}&experiments={experiments}",
        }


def measures(rows: pa.Table) -> dict[str, float]:
    """Counts and rates of result rows, as metric names."""
    ok = rows.filter(pc.equal(rows["status"], "ok"))
    audio_s = pc.sum(ok["duration_s"]).as_py() or 0.0
    parts = {
        f"{part}_seconds": pc.sum(ok[f"{part}_s"]).as_py() or 0.0
        for part in ("condition", "denoise", "decode", "write")
    }
    values = {
        "covers_ok": len(ok),
        "covers_failed": len(rows) - len(ok),
        "audio_seconds": audio_s,
        **parts,
    }
    if audio_s:
        values["seconds_per_cover"] = sum(parts.values()) / len(ok)
        values["time/rtf"] = sum(parts.values()) / audio_s
    return values


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
