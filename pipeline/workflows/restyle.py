"""The catalogue job: manifest -> plan -> pool of workers -> results -> tracking."""

import os
import platform
import signal
import time
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch

from acestep.constants import default_dtype
from acestep.errors import RestyleError
from acestep.handler import DTYPES
from acestep.model.compilation import check_compiled
from pipeline.catalogue.grid import Setting
from pipeline.cluster.connection import connect
from pipeline.cluster.errors import PoolError, StoppedError
from pipeline.cluster.local_cluster import find_dead_daemon
from pipeline.cluster.pool import Pool, size_pool
from pipeline.cluster.shutdown import StopFlag, stop_signals
from pipeline.cluster.worker_deaths import read_deaths
from pipeline.evaluation.judging import FINDINGS_COLUMNS, any_measured
from pipeline.planning.items import ModelFacts
from pipeline.planning.plan import Plan
from pipeline.planning.plan_file import PLAN_FILE, PlanWriter
from pipeline.report.findings import make_findings
from pipeline.results.collector import ResultCollector
from pipeline.results.job_file_reader import read_record
from pipeline.results.missing_audio import covers_without_audio, drop_rows
from pipeline.results.progress import Progress, slowest_s
from pipeline.results.reader import current_rows
from pipeline.results.repair import check_parts
from pipeline.storage.lease import LeasedStore, LeaseLostError, hold_lease
from pipeline.storage.output_store import OutputError
from pipeline.storage.store import Store, no_empty_folders, open_output, open_store
from pipeline.tracking.tracker import Tracker
from pipeline.worker.attempts import ATTEMPTS, mark_start, under_way
from pipeline.worker.dataset import stream
from pipeline.worker.restyle_worker import RestyleWorker
from pipeline.worker.spec import WorkerSpec
from pipeline.worker.startup import any_worker_is_ready, ready_workers, start_up
from pipeline.workflows.job_file_writer import job_labels, job_parameters, write_job_file
from pipeline.workflows.restyle_job import check_options, open_job, plan_job
from pipeline.workflows.specs import RestyleJob
from pipeline.workflows.summary import Summary, summarize
from pipeline.workflows.watchdog import (
    Watchdog,
    WatchdogView,
    ask_within_timeout,
    describe_cluster,
    running_watchdog,
)


class Reporter(Protocol):
    """Receives the events of a job."""

    def planned(self, job: RestyleJob, plan: Plan, settings: list[Setting], model: ModelFacts, pool: Pool) -> None:
        """Called before the first track."""

    def advanced(self, progress: Progress) -> None:
        """Called when covers are finished."""

    def warned(self, message: str) -> None:
        """Called for problems that do not stop the job, possibly from another thread."""


def run(job: RestyleJob, reporter: Reporter, worker_class: type[RestyleWorker] = RestyleWorker) -> Summary:
    """Restyle a catalogue; a second run on the same folder makes what is missing.

    Args:
        worker_class: makes the covers.

    Raises:
        RestyleError: the job could not start (manifest, model, setting, cluster or output folder).
        DamageError: the output folder holds damaged parts.
        HeldError: another launch works on the output folder.
        PoolError: the workers failed; finished covers are kept.
        OutputError: the output folder failed; running covers were finished if possible.
        LeaseLostError: another launch took the output folder over; finished covers are kept.
        StoppedError: Ctrl-C, SIGTERM or SIGHUP; running covers were finished.
    """
    check_options(job)
    with (
        no_empty_folders(open_store(job.output)),
        hold_lease(open_output(job.output), f"output {job.output}", reporter.warned) as output,
    ):
        return run_in(output, job, reporter, worker_class)


def run_in(
    output: LeasedStore, job: RestyleJob, reporter: Reporter, worker_class: type[RestyleWorker] = RestyleWorker
) -> Summary:
    """``run`` in an output folder whose lease the caller holds."""
    started = time.perf_counter()
    check_parts(output, job.repair, reporter.warned)
    read_record(output, reporter.warned)  # reports a damaged file before it is overwritten
    opened = open_job(job, output)
    tracker = opened.tracker
    for note in opened.notes:
        reporter.warned(note)
    connect(job.cluster)
    pool = size_pool(job.cluster)
    dtype = job.dtype or default_dtype(pool.gpus_per_worker > 0)
    device = torch.device(job.device or ("cuda" if pool.gpus_per_worker else "cpu"))
    check_compiled(job.compiled, device, DTYPES[dtype])
    collector, began_at = ResultCollector(output), time.time()
    launch = collector.results.launch
    try:
        collector.recover_receipts()
        with PlanWriter() as work:
            plan, model, settings = plan_job(job, opened, dtype, launch, work.add, collector.add)
            if plan.items:
                work.write(output)
        drop_rows(output, plan.lost)
        collector.update_columns(plan.outdated)
        progress = Progress(plan.items, plan.tracks, sum(plan.seconds.values()))
        reporter.planned(job, plan, settings, model, pool)
        write_job_file(job, output, model, pool, settings)
        tracker.begin(job_parameters(job, model, settings), settings, reporter.warned, job_labels(job, settings))
        if plan.items:
            mark_start(output, launch)
            began_at = time.time()
            worker = worker_spec(job, output, launch, model, pool, device)
            _make_covers(worker, worker_class, job, pool, collector, progress, tracker, reporter)
        collector.flush()
        collector.recover_receipts()
        lost = covers_without_audio(output) & plan.ids if plan.items else set()
        drop_rows(output, lost)
        made = current_rows(output, plan.ids, FINDINGS_COLUMNS)
        summary = summarize(made, collector.new, time.perf_counter() - started, plan.lost, len(lost))
        summary = replace(summary, start_up=start_up(output, launch, began_at, made))
        output.delete_folder(ATTEMPTS)
        output.delete(PLAN_FILE)
    except BaseException:
        try:
            collector.flush()
        finally:
            if not output.lease.lost:  # otherwise the runs belong to another launch
                tracker.abandon()
        raise
    try:
        findings = make_findings(output, made, job.findings, job.name) if any_measured(made) else None
    except LeaseLostError:
        raise
    except (RestyleError, OSError) as error:
        findings = None
        reporter.warned(
            f"the covers are there and not compared: {error}; jobs.compare output={job.output} does it"
        )
    except BaseException:
        tracker.abandon()
        raise
    links = tracker.finish(made, summary.seconds, reporter.warned, progress, findings)
    return replace(summary, tracking=links, findings=findings)


def _make_covers(
    worker: WorkerSpec,
    worker_class: type[RestyleWorker],
    job: RestyleJob,
    pool: Pool,
    collector: ResultCollector,
    progress: Progress,
    tracker: Tracker,
    reporter: Reporter,
) -> None:
    stop = StopFlag()

    def stopping() -> bool:
        stop.request()
        watch.stopping(stopped)
        if not any_worker_is_ready(worker.output, worker.launch):
            return True
        reporter.warned("stopping when the covers under way are done; once more stops now")
        return False

    def stopped(why: str = "") -> StoppedError:
        said = f"stopped: {progress.done} of {progress.items} covers are done"
        return StoppedError(f"{said}; {why}" if why else said, request.signal or signal.SIGINT)

    def abandon(error: Exception) -> None:
        ask_within_timeout(collector.flush)  # the lease may be lost, or the storage may hang
        reporter.warned(f"{error}; what is finished is kept, and the same command goes on from here")
        os._exit(128 + error.signal if isinstance(error, StoppedError) else 1)

    looks = WatchdogView(
        lost=find_dead_daemon,
        deaths=read_deaths,
        ready=partial(ready_workers, worker.output, worker.launch),
        under_way=partial(under_way, worker.output, worker.launch),
        describe=partial(describe_cluster, pool),
    )
    limits = job.cluster.stall_timeout_s, job.cluster.stop_timeout_s
    watch = Watchdog(reporter.warned, lambda error: request.end(error), abandon, looks, *limits)
    with stop_signals(stopping) as request, running_watchdog(watch):
        for table in stream(worker.output, worker, job.cluster, pool, stop, worker_class):
            try:
                collector.add_new(table)
            except OutputError as error:  # the rows stay buffered; running covers have receipts
                stop.request(str(error))
            progress.add(table)
            watch.covers_finished(slowest_s(table))
            reporter.advanced(progress)
            tracker.progressed(progress, reporter.warned)
    if progress.done < progress.items:
        if request.signal is not None:
            raise stopped()
        if fault := stop.fault():
            raise OutputError(fault)
        reason = f"{progress.items - progress.done} of {progress.items} covers never came back from the pool"
        raise PoolError("cluster_failed", reason)


def worker_spec(
    job: RestyleJob, output: Store, launch: str, model: ModelFacts, pool: Pool, device: torch.device
) -> WorkerSpec:
    """The configuration of a job's workers."""
    return WorkerSpec(
        output=output,
        launch=launch,
        node=platform.node(),
        model=model,
        variant=job.variant,
        device=str(device),
        audio_format=job.audio_format,
        max_seconds=job.max_source_seconds,
        threads=pool.threads,
        max_attempts=job.max_attempts,
        source_timeout_s=job.source_timeout_s,
        adapter=job.adapter,
        adapter_scale=job.adapter_scale,
        language_model=job.language_model,
        metrics=job.metrics,
        repair=job.repair,
    )
