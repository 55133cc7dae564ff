"""MLflow: one job run for an output folder, one flat run for each setting.

The driver is the only client, and results are files before they are runs: a tracking server that is down or hangs
costs a warning and no time, since a thread of its own talks to it while the job runs. At the end, and by every
later launch on the folder, the runs are brought up to date with the files. Setting runs carry as parameters only
what varies between them, so that the compare views of the MLflow UI open on the right axes.
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
from pipeline.results.job_file import folder_of, tracking_key
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
    """The runs of one output folder; found again by a tag when the job is resumed.

    first_s, every_s: seconds until progress is logged first, and from then on.
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
        """Settle where to track, without connecting.

        Raises:
            RequestError: the output is remote and no tracking URI is given, or it is one that can never work.
        """
        self.enabled = spec.enabled
        self.experiment = spec.experiment or catalogue
        self.output = output
        self.folder = folder_of(output, output_uri)
        uri = (spec.uri or os.environ.get("MLFLOW_TRACKING_URI") or "").strip()
        if not uri and spec.enabled:
            if not output.is_local:
                raise RequestError(
                    f"output {output_uri} is remote and no tracking server is named; set tracking.uri or "
                    "MLFLOW_TRACKING_URI, or tracking.enabled=false"
                )
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
        """What the tracker holds for this job; nothing is created in it.

        Raises:
            TrackerError: it does not take runs.
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
        """Have the job run and the setting runs opened, or found again, without waiting for it.

        Args:
            settings: those of one id, which differ in their seed, are one run.
            warn: is called from another thread.
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
        """Log now and then how far the job is, without waiting for it.

        Args:
            warn: is called from another thread.
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
        """Bring the runs up to date with the job's current rows, and end them.

        It depends on nothing that was logged before, so a launch that finds nothing to do makes up for one whose
        server was down.

        Args:
            seconds, progress: of this launch; where it made nothing, an earlier launch's figures are left alone.

        Returns:
            See ``pipeline.tracking.uri.links``; empty where nothing is tracked.
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
        """Mark the runs as stopped; the next launch takes them up again."""
        if self.enabled:
            self.background.close(ABANDON_PATIENCE_S, self._mark_killed)

    def _mark_killed(self) -> None:
        with contextlib.suppress(Exception):  # the job is ending for a better reason
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

    def _attempt(self, errand: Callable[[], object], warn: Callable[[str], None]) -> None:
        """Run in the background; say when it begins to fail, or fails otherwise, and when it works again."""
        try:
            errand()
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
    """How far a job is, as metric names."""
    rates, left_s = progress.recent(), progress.left_s()
    values = {
        "progress/covers_done": float(progress.done),
        "progress/covers_failed": float(progress.failed),
        "progress/tracks_per_minute": rates.tracks_per_minute,
        "progress/x_real_time": rates.x_real_time,
    }
    return values if left_s is None else values | {"progress/hours_to_go": left_s / 3600}


def _log_progress(client: "MlflowClient", runs: OpenRuns, values: Mapping[str, float], at_ms: int) -> None:
    # Counted from when the run was first opened, so that a later launch goes on where this one ends.
    step = max(0, at_ms - runs.opened_ms) // 1000
    log_metrics(client, runs.job, values, at_ms, step)
