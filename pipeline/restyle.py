"""The catalogue job: manifest -> plan -> pool of workers -> results -> tracking."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.actors import ATTEMPTS, WorkerSpec
from pipeline.cluster import Pool, connect, size_pool
from pipeline.items import ModelFacts
from pipeline.job import RestyleJob, open_job, plan_job
from pipeline.plan import Plan
from pipeline.record import job_parameters, write_job_file
from pipeline.results import (
    REJECTED,
    RESULTS,
    ResultWriter,
    as_table,
    current_rows,
)
from pipeline.settings import Setting
from pipeline.stages import stream
from pipeline.storage import Store
from pipeline.summary import SUMMARY_COLUMNS, Summary, summarize

PLAN_FILE = "plan.parquet"


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
    opened = open_job(job)
    output, tracker = opened.output, opened.tracker
    connect(job.cluster)
    pool = size_pool(job.cluster)
    dtype = job.dtype or ("bfloat16" if pool.gpus_per_worker else "float32")
    results, rejected = ResultWriter(output, RESULTS), ResultWriter(output, REJECTED)
    plan, model, settings = plan_job(job, opened, dtype, results.launch)
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
