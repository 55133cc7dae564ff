"""Preparation of a restyle job: checks its parts, and plans, before a worker starts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain

import pyarrow as pa
import torch

from acestep.audio.files import FORMATS
from acestep.checkpoints.lora import check_scale, open_adapter
from acestep.constants import default_dtype
from acestep.errors import RequestError
from acestep.handler import DTYPES
from pipeline.catalogue.grid import DUPLICATES, Setting, distinct
from pipeline.catalogue.manifest import RejectedRow, Track, read_manifest, resolve_unicode_forms
from pipeline.catalogue.presets import check_preset
from pipeline.catalogue.probe import ProbeCache
from pipeline.cluster.pool import refuse_ephemeral
from pipeline.planning.estimate import Estimate, estimate
from pipeline.planning.items import ItemRules, ModelFacts
from pipeline.planning.model_files import find_model_files
from pipeline.planning.plan import Plan, make_plan
from pipeline.results.carried_columns import CarriedColumns
from pipeline.results.finished_items import changed_sources, finished_items, made_tracks, made_with
from pipeline.results.missing_audio import covers_without_audio
from pipeline.results.reader import RESULTS
from pipeline.results.repair import check_parts
from pipeline.results.writer import ResultWriter, as_table
from pipeline.storage.read_timeout import ReadTimeout
from pipeline.storage.store import Store, no_empty_folders, open_output, open_store
from pipeline.tracking.tracker import Tracker
from pipeline.workflows.specs import RestyleJob


@dataclass(frozen=True)
class OpenedJob:
    """A job with all parts checked.

    notes: on the model as a whole, for people.
    """

    output: Store
    rows: Iterator[Track | RejectedRow]
    settings: list[Setting]
    model: ModelFacts
    tracker: Tracker
    notes: tuple[str, ...] = ()


def check_options(job: RestyleJob) -> None:
    """Check the options that need no file.

    Raises:
        RequestError: an option is invalid, or the tracking URI can never work.
    """
    wrong = next(option_errors(job), None)
    if wrong is not None:
        raise wrong
    job.metrics.check()
    Tracker(job.tracking, job.name, open_store(job.output), job.output)


def open_job(job: RestyleJob, output: Store) -> OpenedJob:
    """Check and open everything that a job needs.

    Args:
        output: its output folder, opened.

    Raises:
        RestyleError: the manifest, the model or a setting is unusable.
    """
    check_options(job)
    presets = [check_preset(preset) for preset in job.presets]
    made = lru_cache(lambda: made_tracks(output))
    rows = read_manifest(job.manifest, presets, job.caption, job.manifest_columns, made=made)
    rows = resolve_unicode_forms(rows, ReadTimeout(job.source_timeout_s))
    first = next(rows)
    settings = job.settings()
    files = find_model_files(job.model, job.variant, job.adapter, job.language_model)
    is_turbo = files.verify()
    refuse_repeats(job, settings, first, is_turbo)
    return OpenedJob(
        output=output,
        rows=chain([first], rows),
        settings=settings,
        model=files.facts(job.model, is_turbo, job.adapter_scale, job.compiled),
        tracker=Tracker(job.tracking, job.name, output, job.output),
        notes=tuple(filter(None, [open_adapter(files.adapter).note()])) if files.adapter else (),
    )


def option_errors(job: RestyleJob) -> Iterator[RequestError]:
    """Errors of the options that need no file."""
    if job.audio_format not in FORMATS:
        yield RequestError("unknown_value", field="audio_format", value=job.audio_format, allowed=FORMATS)
    if job.dtype is not None and job.dtype not in DTYPES:
        yield RequestError("unknown_value", field="dtype", value=job.dtype, allowed=DTYPES)
    if job.max_attempts < 2:
        yield RequestError(
            "invalid_value",
            "is too small: a death may be a neighbour's fault",
            "allow at least 2",
            "max_attempts",
            job.max_attempts,
        )
    if not job.source_timeout_s > 0:
        yield RequestError(
            "out_of_range", "must be above zero", field="source_timeout_s", value=job.source_timeout_s
        )
    if job.duplicates not in DUPLICATES:
        yield RequestError("unknown_value", field="grid.duplicates", value=job.duplicates, allowed=DUPLICATES)
    for look in (
        lambda: check_scale(job.adapter_scale),
        lambda: refuse_ephemeral(manifest=job.manifest, output=job.output),
    ):
        try:
            look()
        except RequestError as error:
            yield error


def refuse_repeats(
    job: RestyleJob, settings: Sequence[Setting], first: Track | RejectedRow, is_turbo: bool
) -> None:
    """Refuse a grid whose settings give identical audio, unless rows have values of their own that may differ.

    Raises:
        RepeatsError: listing them.
    """
    if job.duplicates == "refuse" and isinstance(first, Track) and not (first.overrides or first.preset):
        distinct(settings, is_turbo)


def plan_job(
    job: RestyleJob,
    opened: OpenedJob,
    dtype: str,
    launch: str,
    todo: Callable[[pa.Table], None],
    final: Callable[[pa.Table], None],
) -> tuple[Plan, ModelFacts, list[Setting]]:
    """Plan a job; returns the plan, the model and the settings to run.

    Args:
        todo, final: see ``make_plan``.

    Raises:
        RequestError: the folder holds another model's covers, or the grid repeats itself.
    """
    model = replace(opened.model, dtype=dtype)
    refuse_other_models(opened.output, model, job.mix_models)
    rules = ItemRules(
        settings=opened.settings,
        model=model,
        audio_format=job.audio_format,
        max_seconds=job.max_source_seconds,
        by_hand=_by_hand(job),
        duplicates=job.duplicates,
        preset=job.preset,
    )
    lost = covers_without_audio(opened.output)
    finished = finished_items(opened.output, job.retry_failed) - lost
    carried_columns = CarriedColumns(opened.output) if job.manifest_columns and finished else None
    probes = ProbeCache(opened.output, launch, ReadTimeout(job.source_timeout_s), changed_sources(opened.output))
    plan = make_plan(opened.rows, rules, finished, probes.of, todo, final, carried_columns)
    plan.lost = lost & plan.ids
    return plan, model, _run(opened.settings, plan, job.duplicates, model.is_turbo)


def dry_run(job: RestyleJob, rates_from: str | None = None) -> Estimate:
    """Estimate what ``run`` would do, without a cluster; sources are probed.

    Args:
        rates_from: another output folder, whose rates are used if this one has no covers of the model.

    Raises:
        RestyleError: see ``open_job`` and ``plan_job``, or the output folder is not writable.
    """
    with no_empty_folders(open_store(job.output)):
        return _foreseen(job, rates_from)


def _foreseen(job: RestyleJob, rates_from: str | None) -> Estimate:
    check_options(job)
    output = open_output(job.output)
    check_parts(output)
    opened = open_job(job, output)
    dtype = assumed_dtype(job)
    launch = ResultWriter(opened.output, RESULTS).launch
    problems = [as_table([])]
    plan, model, settings = plan_job(job, opened, dtype, launch, lambda work: None, problems.append)
    elsewhere = open_store(rates_from) if rates_from else None
    return estimate(plan, settings, opened.output, model, pa.concat_tables(problems), elsewhere)


def assumed_dtype(job: RestyleJob) -> str:
    """The workers' dtype; by default as if they ran on this machine."""
    return job.dtype or default_dtype(torch.cuda.is_available())


def _by_hand(job: RestyleJob) -> list[str]:
    swept = (name for name, values in job.grid.items() if values is not None)
    return [*job.by_hand, *swept, *dict.fromkeys(name for point in job.points for name in point.values)]


def _run(settings: list[Setting], plan: Plan, duplicates: str, is_turbo: bool) -> list[Setting]:
    """The settings of planned items, each with the names of its duplicates."""
    if duplicates == "run_once":
        once = distinct(settings, is_turbo, duplicates)
        if plan.settings <= {setting.setting_id for setting in once}:
            settings = once
    return [setting for setting in settings if setting.setting_id in plan.settings] or settings


def refuse_other_models(output: Store, model: ModelFacts, mix_models: bool) -> None:
    """Refuse a folder with covers of another model.

    Raises:
        RequestError: it has some, and ``mix_models`` is off.
    """
    others = made_with(output) - {model.fingerprint}
    if others and not mix_models:
        remedy = "use another folder, or allow it with mix_models=true"
        raise RequestError(
            "invalid_value",
            f"the output folder holds covers made with another model ({', '.join(sorted(others))}, and "
            f"this is {model.fingerprint})",
            remedy,
        )


def existing_output(uri: str) -> Store:
    """The output folder of an earlier job.

    Raises:
        RequestError: it does not exist.
    """
    store = open_store(uri)
    if not store.exists(""):
        remedy = "name a folder of jobs.restyle or jobs.measure"
        raise RequestError("missing_folder", "is no folder", remedy, "output", uri)
    return store
