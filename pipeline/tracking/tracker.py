"""MLflow tracking: one job run for an output folder, and one run for each setting.

Only the driver talks to MLflow, from a background thread: a server that is down or hangs costs a warning and no
time. Results are files first; at the end, and in every later launch, the runs are updated from the files. Setting
runs have only the varied parameters, so that MLflow's compare views open on the right axes.
"""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from acestep.errors import RequestError
from acestep.redaction import redacted, redacted_values
from pipeline.report.findings import Findings
from pipeline.results.job_file_reader import folder_of, tracking_key
from pipeline.results.progress import Progress
from pipeline.storage.parquet_parts import PartError
from pipeline.storage.store import Store
from pipeline.tracking.artifacts import description
from pipeline.tracking.background import BackgroundThread
from pipeline.tracking.faults import TrackerError, fault_of
from pipeline.tracking.moved_artifacts import relocate
from pipeline.tracking.preflight import check_experiment
from pipeline.tracking.runs import (
    OpenRuns,
    SettingLike,
    connect,
    import_client,
    log_job,
    log_metrics,
    log_overview,
    log_setting,
    open_runs,
)
from pipeline.tracking.spec import TrackingSpec
from pipeline.tracking.uri import ARTIFACTS, DATABASE, checked, links, sqlite_file, sqlite_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

FIRST_S, EVERY_S = 15.0, 60.0
FINISH_PATIENCE_S, ABANDON_PATIENCE_S = 120.0, 10.0


class Tracker:
    """The runs of one output folder, found by a tag when the job is resumed.

    first_s, every_s: seconds until progress is first logged, and between updates.
    """

    def __init__(
        self,
        spec: TrackingSpec,
        catalogue: str,
        output: Store,
        output_uri: str,
        first_s: float = FIRST_S,
        every_s: float = EVERY_S,
    ):
        """Determine the tracking URI, without connecting.

        Raises:
            RequestError: the output is remote and no tracking URI is given, or the URI can never work.
        """
        self.enabled = spec.enabled
        self.experiment = spec.experiment or catalogue
        self.output = output
        self.folder = folder_of(output, output_uri)
        uri = (spec.uri or os.environ.get("MLFLOW_TRACKING_URI") or "").strip()
        if not uri and spec.enabled:
            if not output.is_local:
                reason = "is remote and no tracking server is named"
                remedy = "set tracking.uri or MLFLOW_TRACKING_URI, or tracking.enabled=false"
                raise RequestError("invalid_value", reason, remedy, "output", output_uri)
            uri = sqlite_uri(f"{output.root}/{DATABASE}")
        self.uri = checked(uri) if spec.enabled else ""
        self.file = sqlite_file(self.uri)
        self.artifacts = (self.file.parent / ARTIFACTS).as_uri() if self.file else None
        self.parameters: Mapping[str, Any] = {}
        self.labels: Mapping[str, str] = {}
        self.settings: Sequence[SettingLike] = ()
        self.runs: OpenRuns | None = None
        self.fault: TrackerError | None = None
        self.background = BackgroundThread("restyle-tracking")
        self.first_s, self.every_s = first_s, every_s
        self.due = time.monotonic() + first_s

    def look(self) -> str:
        """Describe what the tracker holds for this job, without creating anything.

        Raises:
            TrackerError: it does not accept runs.
        """
        import_client()
        return check_experiment(self.uri, self.experiment)

    def begin(
        self,
        parameters: Mapping[str, Any],
        settings: Sequence[SettingLike],
        warn: Callable[[str], None],
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Open or resume the job run and the setting runs, in the background.

        Args:
            settings: those with the same id, which differ in their seed, share a run.
            warn: called from another thread.
            labels: tags of all runs.
        """
        if not self.enabled:
            return
        import_client()
        self.parameters, self.labels = redacted_values(parameters), redacted_values(labels or {})
        self.settings = list({setting.setting_id: setting for setting in settings}.values())
        self.due = time.monotonic() + self.first_s
        self.background.offer(partial(self._attempt, self._open, warn))

    def progressed(self, progress: Progress, warn: Callable[[str], None]) -> None:
        """Log progress at intervals, in the background.

        Args:
            warn: called from another thread.
        """
        if not self.enabled or time.monotonic() < self.due:
            return
        self.due = time.monotonic() + self.every_s
        log = partial(self._catch_up, progress_metrics(progress), int(time.time() * 1000))
        self.background.offer(partial(self._attempt, log, warn))

    def finish(
        self,
        rows: pa.Table,
        seconds: float,
        warn: Callable[[str], None],
        progress: Progress | None = None,
        findings: Findings | None = None,
    ) -> dict[str, str]:
        """Update the runs from the job's current rows, and end them.

        Independent of what was logged before: a launch with nothing to do makes up for one whose server was down.

        Args:
            seconds, progress: of this launch; if it made nothing, an earlier launch's figures stay.

        Returns:
            See ``pipeline.tracking.uri.links``; empty without tracking.
        """
        if not self.enabled:
            return {}
        try:
            if not self.background.close(FINISH_PATIENCE_S):
                raise TrackerError(f"no answer for {FINISH_PATIENCE_S:g} s", "see that it answers", heals=True)
            client, runs = self._open()
            results = rows.filter(pc.not_equal(rows["status"], "rejected"))
            for setting in self.settings:
                own = results.filter(pc.equal(results["setting_id"], setting.setting_id))
                log_setting(client, runs, setting.setting_id, own, self.output, findings)
            launch: dict[str, float] = {}
            if progress is not None and progress.done:
                launch = {"job_seconds": seconds, "job_tracks_per_minute": progress.overall().tracks_per_minute}
                _log_progress(client, runs, progress_metrics(progress), int(time.time() * 1000))
            log_job(client, runs, rows, findings, launch)
            found = links(self.uri, runs.experiment, list(runs.settings.values()))
            log_overview(client, runs.job, results, self.output, self.experiment)
            client.set_tag(runs.job, "mlflow.note.content", description(findings, found))
            client.set_terminated(runs.job)
        except PartError as error:
            warn(f"tracking is incomplete: {error}")
            return {}
        except Exception as error:
            warn(self._incomplete(fault_of(error, self.uri)))
            return {}
        return found

    def abandon(self) -> None:
        """Mark the runs as killed; the next launch resumes them."""
        if self.enabled:
            self.background.close(ABANDON_PATIENCE_S, self._mark_killed)

    def _mark_killed(self) -> None:
        with contextlib.suppress(Exception):  # the job ends with an error of its own
            if self.runs is not None:
                client = connect(self.uri)
                for run in self.runs.all:
                    client.set_terminated(run, status="KILLED")

    def _open(self) -> "tuple[MlflowClient, OpenRuns]":
        client = connect(self.uri)
        keys = [tracking_key(self.output, self.folder)]
        if self.file is not None and self.file.exists():
            keys += relocate(self.file, whole=str(self.file.parent) == self.output.root)
        self.runs = open_runs(
            client,
            self.experiment,
            self.artifacts,
            self.folder,
            list(dict.fromkeys(keys)),
            self.parameters,
            self.settings,
            self.labels,
        )
        return client, self.runs

    def _catch_up(self, values: Mapping[str, float], at_ms: int) -> None:
        client, runs = self._open() if self.runs is None else (connect(self.uri), self.runs)
        _log_progress(client, runs, values, at_ms)

    def _attempt(self, task: Callable[[], object], warn: Callable[[str], None]) -> None:
        """Run a task in the background; warn when it starts to fail, fails for another reason, or recovers."""
        try:
            task()
        except Exception as error:
            fault, before = fault_of(error, self.uri), self.fault
            if before is None or before.remedy != fault.remedy:
                warn(self._behind(fault))
            self.fault, self.runs = fault, None
            return
        if self.fault is not None:
            self.fault = None
            warn(f"tracking goes on: {redacted(self.uri)} takes runs again")

    def _behind(self, fault: TrackerError) -> str:
        refusal = f"{redacted(self.uri)} does not take runs ({fault.reason})"
        if fault.heals:
            return (
                f"tracking is behind: {refusal}; {fault.remedy}. Results are written as files, and are tracked as "
                "soon as it does, at the latest by the next launch"
            )
        remedy = f"; {fault.remedy}" if fault.remedy else ""
        return f"nothing is tracked: {refusal}{remedy}. The job goes on and writes its results as files"

    def _incomplete(self, fault: TrackerError) -> str:
        said = f"tracking is incomplete: {redacted(self.uri)} does not take runs ({fault.reason}); "
        files = "The results are there as files; "
        if fault.heals:
            return f"{said}{fault.remedy}. {files}once it does, the same command brings the tracking up to date"
        if fault.remedy:
            return f"{said}{fault.remedy}. {files}until that is done, the same command cannot track them either"
        return f"{said}it is unknown whether this will pass by itself. {files}the same command tries again"


def progress_metrics(progress: Progress) -> dict[str, float]:
    """Metrics of a job's progress."""
    rates, left_s = progress.recent(), progress.left_s()
    values = {
        "progress/covers_done": float(progress.done),
        "progress/covers_failed": float(progress.failed),
        "progress/tracks_per_minute": rates.tracks_per_minute,
        "progress/x_real_time": rates.x_real_time,
    }
    return values if left_s is None else values | {"progress/hours_to_go": left_s / 3600}


def _log_progress(client: "MlflowClient", runs: OpenRuns, values: Mapping[str, float], at_ms: int) -> None:
    # Seconds since the run was first opened, so that later launches continue the curve.
    step = max(0, at_ms - runs.opened_ms) // 1000
    log_metrics(client, runs.job, values, at_ms, step)
