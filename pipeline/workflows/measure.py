"""Measures existing covers: those of an output folder without measures, or a list of source/output pairs."""

import itertools
import logging
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from ray.exceptions import RayError

from acestep.constants import SAMPLE_RATE
from acestep.errors import RequestError, RestyleError
from acestep.handler import pick_device
from pipeline.catalogue.own_columns import META
from pipeline.cluster.connection import connect
from pipeline.cluster.pool import size_pool
from pipeline.cluster.task_pool import map_in_tasks
from pipeline.metrics.evaluator import ALL, Evaluator
from pipeline.metrics.registry import MEASURES
from pipeline.metrics.spec import MetricsSpec
from pipeline.planning.external_covers import read_pairs
from pipeline.results.carried_columns import CarriedColumns, with_new_columns
from pipeline.results.finished_items import finished_items, made_with
from pipeline.results.job_file_reader import read_record
from pipeline.results.reader import RESULTS, current_rows
from pipeline.results.repair import check_parts
from pipeline.results.writer import ResultWriter, as_table
from pipeline.storage.audio_files import load, load_cover
from pipeline.storage.lease import hold_lease
from pipeline.storage.read_timeout import DEFAULT_READ_TIMEOUT, ReadTimeout
from pipeline.storage.similar_files import resolve_unicode_form
from pipeline.storage.store import Store, open_output
from pipeline.worker.error_rows import outcome
from pipeline.workflows.job_file_writer import write_pairs_file
from pipeline.workflows.restyle_job import existing_output
from pipeline.workflows.specs import MeasureJob

log = logging.getLogger(__name__)
MAX_PER_TASK = 50  # covers of one source; a lost task is repeated as a whole
MAX_REASONS = 20
BATCH_ROWS = 1000
Rows = list[dict[str, Any]]
# Clears earlier values when a row is measured again.
BLANK: dict[str, Any] = dict.fromkeys([measure.name for measure in MEASURES] + ["measure_s"])


@dataclass
class MeasureProgress:
    """Covers measured and failed so far, seconds of their audio, and seconds of work.

    reasons: the first few reasons of failure.
    """

    covers: int = 0
    failed: int = 0
    audio_s: float = 0.0
    work_s: float = 0.0
    reasons: list[str] = field(default_factory=list)

    def add(self, rows: Rows) -> None:
        for row in rows:
            measured = row.get("measure_s") is not None and not _nothing(row.get("unmeasured") or ())
            self.covers += measured
            self.failed += not measured
            self.audio_s += (row.get("duration_s") or 0.0) * measured
            self.work_s += row.get("measure_s") or 0.0
            if not measured and len(self.reasons) < MAX_REASONS:
                self.reasons.append(f"{row['track_id']}: {row.get('error_message') or row['unmeasured'][0]}")

    @property
    def cost(self) -> float:
        """Seconds of work per minute of covers, without decoding."""
        return self.work_s / self.audio_s * 60 if self.audio_s else 0.0


@dataclass(frozen=True)
class CoverGroup:
    """Covers of one source, measured together; ``listed`` covers come from a list of pairs."""

    output: Store
    rows: Rows
    spec: MetricsSpec
    device: str
    max_seconds: float
    listed: bool
    timeout: ReadTimeout = DEFAULT_READ_TIMEOUT


def measure_all(job: MeasureJob, progressed: Callable[[MeasureProgress], None]) -> MeasureProgress:
    """Measure the covers without measures; rows go to ``results`` of the output folder.

    Raises:
        RestyleError: the job could not start, or another launch took the output folder over.
        HeldError: another launch works on the output folder.
    """
    if not job.metrics.enabled:
        reason = "is false, and this job does nothing else"
        raise RequestError("conflict", reason, "take it out", "metrics.enabled")
    job.metrics.check()
    if not job.source_timeout_s > 0:
        raise RequestError(
            "out_of_range", "must be above zero", field="source_timeout_s", value=job.source_timeout_s
        )
    if job.manifest_columns and not job.pairs:
        remedy = "add pairs=... or take it out"
        raise RequestError("conflict", "is for a list of pairs, and there is none", remedy, "manifest_columns")
    folder = open_output(job.output) if job.pairs else existing_output(job.output)
    with hold_lease(folder, f"output {job.output}") as output:
        check_parts(output, job.repair, log.warning)
        return _measure_in(output, job, progressed)


def _measure_in(output: Store, job: MeasureJob, progressed: Callable[[MeasureProgress], None]) -> MeasureProgress:
    if job.pairs:
        if "model" in read_record(output) or made_with(output):
            remedy = "give the pairs a folder of their own"
            raise RequestError("invalid_value", "holds covers of jobs.restyle", remedy, "output", job.output)
        finished = set() if job.again else finished_items(output, retry_failed=True)
        listed = as_table(read_pairs(job.pairs, job.manifest_columns))
        known = pc.is_in(listed["item_id"], value_set=pa.array(finished, pa.string()))
        rows = listed.filter(pc.invert(known))
        write_pairs_file(job.pairs, output)
        if job.manifest_columns:
            update_listed_columns(output, listed.filter(known))
    else:
        rows = _unmeasured(output, job.again)
    connect(job.cluster)
    pool = size_pool(job.cluster)
    device = "cuda" if pool.gpus_per_worker else "cpu"
    timeout = ReadTimeout(job.source_timeout_s)
    groups = (
        CoverGroup(output, some, job.metrics, device, job.max_source_seconds, bool(job.pairs), timeout)
        for some in _grouped(rows)
    )
    writer, done = ResultWriter(output, RESULTS), MeasureProgress()
    try:
        for group, made in map_in_tasks(
            measure_group, groups, pool.gpus_per_worker, job.cluster.resources, job.cluster.workers
        ):
            found = (
                made
                if isinstance(made, list)
                else [_unread(group, row, worker_died_row(made)) for row in group.rows]
            )
            writer.add(as_table(found))
            done.add(found)
            progressed(done)
    finally:
        writer.flush()
    return done


def update_listed_columns(output: Store, listed: pa.Table) -> None:
    """Write rows again whose own columns differ from the list's."""
    columns = dict(zip(listed["item_id"].to_pylist(), map(dict, listed[META].to_pylist()), strict=True))
    outdated = CarriedColumns(output).outdated(columns)
    if outdated:
        writer = ResultWriter(output, RESULTS)
        writer.add(with_new_columns(output, outdated))
        writer.flush()


def _unmeasured(output: Store, again: bool) -> pa.Table:
    rows = current_rows(output)
    rows = rows.filter(pc.equal(rows["status"], "ok"))
    if not len(rows):
        reason = f"{output.root} holds no covers to measure"
        raise RequestError("missing_folder", reason, "name a folder of jobs.restyle, or add pairs=...")
    # Covers without any measure are measured again, since the obstacle may be gone.
    missing = [texts is None or _nothing(texts) for texts in rows["unmeasured"].to_pylist()]
    return rows if again else rows.filter(pa.array(missing, pa.bool_()))


def _grouped(rows: pa.Table) -> Iterator[Rows]:
    """Rows grouped by source, without converting the whole table to Python objects."""
    batches = rows.sort_by("source").to_batches(max_chunksize=BATCH_ROWS)
    flat = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
    for _, same in itertools.groupby(flat, key=itemgetter("source")):
        while some := list(itertools.islice(same, MAX_PER_TASK)):
            yield some


def measure_group(group: CoverGroup) -> Rows:
    """Measure a group in a Ray task; exits the process if the device is broken."""
    try:
        return _measure_group(group)
    except torch.AcceleratorError as error:
        log.critical("the device is broken, leaving: %s", error)
        os._exit(1)


def _measure_group(group: CoverGroup) -> Rows:
    evaluator = _evaluator(group.spec, group.device)
    try:
        source_uri = resolve_unicode_form(group.rows[0]["source"], group.timeout)
        wave = load(source_uri, group.max_seconds, group.timeout)
        source = evaluator.listen(wave)
    except (RestyleError, OSError) as error:
        return [_unread(group, row, outcome(error), row["source"]) for row in group.rows]
    rows = []
    for row in group.rows:
        try:
            path = resolve_unicode_form(row["audio_path"], group.timeout) if group.listed else row["audio_path"]
            cover = load_cover(group.output, path, group.max_seconds, group.timeout)
            measured = evaluator.measure(source, cover, row["caption"] or "", len(group.rows))
        except (RestyleError, OSError) as error:
            rows.append(_unread(group, row, outcome(error), row["audio_path"]))
            continue
        rows.append(
            row
            | BLANK
            | measured
            | {
                "source": source_uri,
                "audio_path": path,
                "duration_s": cover.shape[1] / SAMPLE_RATE,
                "source_duration_s": wave.shape[1] / SAMPLE_RATE,
                "node": row.get("node") or platform.node(),
                "finished_at": row.get("finished_at") or datetime.now(UTC),
            }
        )
    return rows


@lru_cache(maxsize=1)
def _evaluator(spec: MetricsSpec, device: str) -> Evaluator:
    """The evaluator of a process, cached, since extras load models."""
    return Evaluator(spec, pick_device(device))


def _unread(group: CoverGroup, row: dict[str, Any], found: dict[str, Any], where: str = "") -> dict[str, Any]:
    """The row of a cover that could not be measured. A cover of this package keeps its status."""
    message = f"{where}: {found['error_message']}" if where else found["error_message"]
    if group.listed:
        return row | BLANK | found | {"error_message": message}
    return row | BLANK | {"unmeasured": [f"{ALL}: {message}"]}


def _nothing(reasons: Iterable[str]) -> bool:
    """Whether no measure could be taken."""
    return any(reason.startswith(f"{ALL}: ") for reason in reasons)


def worker_died_row(error: RayError) -> dict[str, Any]:
    """Status columns of a row whose measuring process died."""
    return {"status": "failed", "error_kind": "worker_died", "error_message": f"its process died: {error}"}
