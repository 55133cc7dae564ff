"""Validates a job: checks everything that it needs, and reports all problems at once.

``pipeline.workflows.restyle_job.open_job`` stops at the first problem; here each part is checked on its own, so
that a missing model does not hide a missing source. Nothing is downloaded and no result is written. Probes of
sources are cached under ``probes/`` of the output folder, which speeds up the start of the job. The file is longer
than others, since it has a function for each part of a job.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol, TypeVar

from acestep.checkpoints import hub
from acestep.checkpoints.folders import CheckpointFolders
from acestep.checkpoints.lora import open_adapter
from acestep.checkpoints.verify import verify
from acestep.errors import RequestError, RestyleError
from acestep.language.language_model import open_language_model
from acestep.language.prompt import singing_notes
from acestep.redaction import redacted
from pipeline.catalogue.decode_depth import DECODES, Decode
from pipeline.catalogue.grid import Setting, names_of
from pipeline.catalogue.manifest import RejectedRow, Track, read_manifest, resolve_unicode_forms
from pipeline.catalogue.presets import check_preset
from pipeline.catalogue.probe import ProbeCache, probe_all
from pipeline.catalogue.problem_report import ProblemLog, ReportedProblem
from pipeline.catalogue.source_check import Look, SourceSummary, check_sources
from pipeline.cluster.address import LOCAL, check_reachable, local_cluster_address, resolve_address
from pipeline.cluster.pool import check as check_cluster
from pipeline.cluster.spec import ClusterSpec
from pipeline.planning.disk_space import DiskSpace, space_for
from pipeline.planning.estimate import Estimate
from pipeline.results.finished_items import changed_sources, made_tracks
from pipeline.results.missing_audio import altered_covers
from pipeline.results.reader import RESULTS
from pipeline.results.repair import DamageError, check_parts
from pipeline.results.writer import ResultWriter
from pipeline.storage.lease import holder_of
from pipeline.storage.read_timeout import ReadTimeout
from pipeline.storage.store import Store, no_empty_folders, open_output, open_store
from pipeline.tracking.faults import TrackerError
from pipeline.tracking.tracker import Tracker
from pipeline.workflows.restyle_job import dry_run, option_errors, refuse_repeats
from pipeline.workflows.specs import RestyleJob, ValidateSpec

Found = TypeVar("Found")
Model = tuple[CheckpointFolders, bool]  # the bool: whether it is a turbo model


@dataclass(frozen=True)
class PartCheck:
    """The check of one part of a job.

    said: the result; errors: why the job cannot start; bad: tracks that cannot run, or other problems that do not
        stop the job.
    """

    name: str
    said: str = ""
    errors: tuple[str, ...] = ()
    bad: int = 0

    @property
    def ok(self) -> bool:
        return not self.errors and not self.bad


@dataclass(frozen=True)
class Validation:
    """The result of a validation.

    counts: tracks with a problem, by its kind; first: the first of those.
    noted, first_noted: the same for tracks that can run and have a note.
    forecast, space: None if the job cannot start.
    undecodable: tracks with a problem that the forecast includes, since only decoding reveals it.
    """

    checks: Sequence[PartCheck]
    counts: Mapping[str, int]
    first: Sequence[ReportedProblem]
    noted: Mapping[str, int]
    first_noted: Sequence[ReportedProblem]
    forecast: Estimate | None
    space: DiskSpace | None
    undecodable: int

    @property
    def can_start(self) -> bool:
        return not any(check.errors for check in self.checks)

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


class ValidationReporter(Protocol):
    """Receives progress while a job is validated."""

    def checked(self, check: PartCheck) -> None:
        """Called after each part."""

    def looked(self, done: int, total: int) -> None:
        """Called with the number of checked tracks."""


def validate(job: RestyleJob, spec: ValidateSpec, reporter: ValidationReporter) -> Validation:
    """Check configuration, model, manifest, settings, output folder, tracker, every source, and disk space.

    Raises:
        RequestError: ``spec`` is invalid. Problems of the job are in the result.
    """
    if spec.decode not in DECODES:
        raise RequestError("unknown_value", field="validate.decode", value=spec.decode, allowed=DECODES)
    with ProblemLog(spec.report) as log:
        return _validate(job, spec, reporter, log)


def _validate(job: RestyleJob, spec: ValidateSpec, reporter: ValidationReporter, log: ProblemLog) -> Validation:
    checks: list[PartCheck] = []

    def report(check: PartCheck) -> None:
        checks.append(check)
        for message in check.errors:
            log.note(check.name, message)
        reporter.checked(check)

    def attempt(name: str, look: Callable[[], tuple[Found, str]]) -> Found | None:
        try:
            found, said = look()
        except DamageError as error:
            report(PartCheck(name, errors=tuple(map(str, error.faults))))
            return None
        except (RestyleError, OSError) as error:
            report(PartCheck(name, errors=(str(error),)))
            return None
        report(PartCheck(name, said))
        return found

    report(_configuration(job))
    model = attempt("model", lambda: _model(job))
    if job.adapter:
        attempt("adapter", lambda: _adapter(job, model))
    if job.language_model:
        attempt("language model", lambda: _language_model(job))
    output = attempt("output", lambda: _output(job))
    if job.tracking.enabled:
        report(_tracking(job, log))
    made = lru_cache(lambda: made_tracks(output) if output else frozenset())
    tracks, first, check = _manifest(job, log, made)
    report(check)
    attempt("settings", lambda: _settings(job, first, model))
    timeout = ReadTimeout(job.source_timeout_s)
    look: Look = partial(probe_all, timeout=timeout)
    if output:
        look = ProbeCache(output, ResultWriter(output, RESULTS).launch, timeout, changed_sources(output)).of
    looked = partial(reporter.looked, total=tracks)
    sources = check_sources(
        _tracks(job, made), look, spec.decode, job.max_source_seconds, log.add, log.remark, looked, timeout
    )
    if tracks:
        report(_sources(sources, spec.decode))
    forecast = space = None
    if output is not None and not any(check.errors for check in checks):
        forecast, check = _plan(job, spec, log)
        report(check)
        if forecast is not None and forecast.lost:
            report(_lost(forecast.lost, log))
        if spec.decode == "full":
            report(_altered(output, log))
    if output is not None and forecast is not None:
        space = space_for(forecast, job.audio_format, output)
        report(_space_check(space, log))
    return Validation(
        checks, log.counts, log.first, log.noted, log.first_noted, forecast, space, sources.undecodable
    )


def _configuration(job: RestyleJob) -> PartCheck:
    errors = [*map(str, option_errors(job)), _error(partial(_cluster, job.cluster))]
    errors += [_error(partial(check_preset, preset)) for preset in job.presets]
    return PartCheck("configuration", f"catalogue {job.name}", tuple(filter(None, errors)))


def _error(look: Callable[[], object]) -> str:
    """The message of the error that a check raises, or ""."""
    try:
        look()
    except RestyleError as error:
        return str(error)
    return ""


def _cluster(cluster: ClusterSpec) -> None:
    """Check the values, and that a cluster to join is reachable."""
    check_cluster(cluster)
    address = resolve_address(cluster.address)
    if address != LOCAL:
        check_reachable(local_cluster_address() or address if address == "auto" else address)


def _model(job: RestyleJob) -> tuple[Model, str]:
    folders = hub.find(job.model, job.variant, "cache")
    is_turbo = verify(folders).is_turbo
    return (folders, is_turbo), f"{job.model}, every tensor fits ({folders.model})"


def _adapter(job: RestyleJob, model: Model | None) -> tuple[Path, str]:
    path = hub.find_adapter(job.adapter or "", "cache")
    adapter = open_adapter(path)
    said = f"{job.adapter}, {len(adapter.pairs)} layers of {adapter.path}"
    if model is None:
        return path, f"{said}, can be read; whether it fits, the model will tell"
    verify(model[0], path)
    return path, "; ".join(filter(None, (f"{said}, fits the model", adapter.note())))


def _language_model(job: RestyleJob) -> tuple[Path, str]:
    folder = hub.find_language_model(job.language_model or "", "cache")
    open_language_model(folder)
    return folder, f"{job.language_model}, every tensor fits ({folder})"


def _output(job: RestyleJob) -> tuple[Store, str]:
    with no_empty_folders(open_store(job.output)):
        output = open_output(job.output)
        holder = holder_of(output)
        check_parts(output)
    used = f"; in use by {holder}, and a launch has to wait until it ends" if holder else ""
    return output, f"{job.output}, can be written{used}"


def _tracking(job: RestyleJob, log: ProblemLog) -> PartCheck:
    try:
        tracker = Tracker(job.tracking, job.name, open_store(job.output), job.output)
        return PartCheck("tracking", tracker.look())
    except RestyleError as error:
        return PartCheck("tracking", errors=(str(error),))
    except TrackerError as error:
        said = f"{redacted(tracker.uri)} does not take runs ({error.reason}); {error.remedy or 'look again'}"
        log.note("tracking", said)
        return PartCheck("tracking", f"{said}. The job would run, and not be tracked", bad=1)


def _manifest(
    job: RestyleJob, log: ProblemLog, made: Callable[[], Collection[str]]
) -> tuple[int, Track | RejectedRow | None, PartCheck]:
    """Number of tracks (up to an unreadable line), the first row, and the check."""
    rows = rejected = 0
    first: Track | RejectedRow | None = None
    errors: list[str] = []
    try:
        for row in _rows(job, lambda error: errors.append(str(error)), made):
            rows, first = rows + 1, first or row
            if isinstance(row, RejectedRow):
                rejected += 1
                log.add(ReportedProblem(row.track_id, row.source, row.kind, row.message))
                continue
            for note in singing_notes(row.prompt):
                log.remark(ReportedProblem(row.track_id, row.source, "no_words_to_sing", note))
    except RestyleError as error:
        errors.append(str(error))
    said = f"{job.manifest}, {rows} rows" + (f", {rejected} of them cannot be run as written" if rejected else "")
    return rows - rejected, first, PartCheck("manifest", said, tuple(errors), rejected)


def _rows(
    job: RestyleJob, wrong: Callable[[RestyleError], None], made: Callable[[], Collection[str]]
) -> Iterator[Track | RejectedRow]:
    """The manifest's rows with the valid presets; the check of the configuration reports the others.

    Args:
        wrong: called with errors of columns.
        made: see ``read_manifest``.
    """
    usable = [preset for preset in job.presets if not _error(partial(check_preset, preset))]
    return read_manifest(job.manifest, usable, job.caption, job.manifest_columns, wrong, made)


def _settings(
    job: RestyleJob, first: Track | RejectedRow | None, model: Model | None
) -> tuple[list[Setting], str]:
    settings = job.settings()
    if model is not None and first is not None:
        refuse_repeats(job, settings, first, model[1])
    return settings, f"{len(settings)}: {names_of(settings, 4)}"


def _sources(found: SourceSummary, decode: Decode) -> PartCheck:
    how = {"start": "start decoded", "full": "decoded in full", "none": "not decoded"}[decode]
    said = f"{found.tracks - found.bad} of {found.tracks} tracks can be run, {found.seconds / 3600:.2f} h, {how}"
    if found.unknown:
        said += f"; {found.unknown} do not say how long they are"
    return PartCheck("sources", said, bad=found.bad)


def _tracks(job: RestyleJob, made: Callable[[], Collection[str]]) -> Iterator[Track]:
    """The tracks of the manifest, up to an unreadable line, which the check of the manifest reports."""
    with suppress(RestyleError):
        for row in resolve_unicode_forms(_rows(job, lambda error: None, made), ReadTimeout(job.source_timeout_s)):
            if isinstance(row, Track):
                yield row


def _plan(job: RestyleJob, spec: ValidateSpec, log: ProblemLog) -> tuple[Estimate | None, PartCheck]:
    try:
        forecast = dry_run(job, spec.rates_from)
    except RestyleError as error:
        return None, PartCheck("plan", errors=(str(error),))
    known = set(
        log.counts
    )  # the plan meets them again; what it alone finds is how a row goes with the job's values
    bad = 0
    for row in forecast.problems.select(["track_id", "source", "error_kind", "error_message"]).to_pylist():
        if row["error_kind"] not in known:
            bad += 1
            log.add(ReportedProblem(row["track_id"], row["source"], row["error_kind"], row["error_message"]))
    said = (
        f"{bad} tracks set what the job sweeps, or repeat themselves" if bad else "tracks and settings go together"
    )
    return forecast, PartCheck("plan", said, bad=bad)


def _lost(count: int, log: ProblemLog) -> PartCheck:
    said = f"{count} covers that are ok by their rows have no whole audio file; the job makes them again"
    log.note("audio files", said)
    return PartCheck("audio files", said, bad=count)


def _altered(output: Store, log: ProblemLog) -> PartCheck:
    try:
        names = altered_covers(output)
    except OSError as error:
        return PartCheck("covers", errors=(str(error),))
    for name in names:
        log.note("covers", f"{name} does not have the digest in its row")
    if not names:
        return PartCheck("covers", "each as its row says")
    said = f"{len(names)} do not have the digest in their rows, such as {names[0]}"
    return PartCheck("covers", f"{said}; delete them, and the job makes them again", bad=len(names))


def _space_check(space: DiskSpace, log: ProblemLog) -> PartCheck:
    if not space.is_short:
        return PartCheck("space", "unknown" if space.free is None else "enough")
    said = f"{space}; make room, give another output or a smaller audio_format"
    log.note("space", said)
    return PartCheck("space", said, bad=1)
