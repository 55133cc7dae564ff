"""The job, and everything that happens before a worker starts: look at its parts, and plan."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import pyarrow as pa
import torch

from acestep.audio.files import FORMATS
from acestep.checkpoints import hub
from acestep.checkpoints.checkpoint import fingerprint, folder_fingerprint
from acestep.checkpoints.file_stamps import file_stamp
from acestep.checkpoints.lora import check_scale, open_adapter
from acestep.checkpoints.verify import verify
from acestep.constants import default_dtype
from acestep.errors import RequestError
from acestep.handler import DTYPES
from acestep.language.language_model import open_language_model
from pipeline.catalogue.grid import DUPLICATES, Setting, distinct
from pipeline.catalogue.manifest import RejectedRow, Track, read_manifest, resolve_unicode_forms
from pipeline.catalogue.presets import check_preset
from pipeline.catalogue.probe import ProbeCache
from pipeline.cluster.pool import refuse_ephemeral
from pipeline.planning.estimate import Estimate, estimate
from pipeline.planning.items import ItemRules, ModelFacts
from pipeline.planning.plan import Plan, make_plan
from pipeline.results.carried_columns import CarriedColumns
from pipeline.results.missing_audio import lost_covers
from pipeline.results.repair import check_parts
from pipeline.results.table import (
    RESULTS,
    ResultWriter,
    as_table,
    changed_sources,
    finished_items,
    made_tracks,
    made_with,
)
from pipeline.storage.read_timeout import ReadTimeout
from pipeline.storage.store import Store, no_empty_folders, open_output, open_store
from pipeline.tracking.tracker import Tracker
from pipeline.workflows.specs import RestyleJob


@dataclass(frozen=True)
class OpenedJob:
    """A job whose every part was looked at; nothing runs yet.

    notes: on the model as a whole, for people.
    """

    output: Store
    rows: Iterator[Track | RejectedRow]
    settings: list[Setting]
    fingerprint: str
    stamp: str
    language_model_fingerprint: str | None
    is_turbo: bool
    tracker: Tracker
    notes: tuple[str, ...] = ()


def check_options(job: RestyleJob) -> None:
    """Look at the values that no file is needed to judge.

    Raises:
        RequestError: one cannot be used, or the tracking URI never will.
    """
    wrong = next(option_errors(job), None)
    if wrong is not None:
        raise wrong
    job.metrics.check()
    Tracker(job.tracking, job.name, open_store(job.output), job.output)


def open_job(job: RestyleJob, output: Store) -> OpenedJob:
    """Look at everything a job needs.

    Args:
        output: its output folder, opened.

    Raises:
        RestyleError: the manifest, the model or a setting cannot be used.
    """
    check_options(job)
    presets = [check_preset(preset) for preset in job.presets]
    made = lru_cache(lambda: made_tracks(output))
    rows = read_manifest(job.manifest, presets, job.caption, job.manifest_columns, made=made)
    rows = resolve_unicode_forms(rows, ReadTimeout(job.source_timeout_s))
    first = next(rows)
    settings = job.settings()
    language_model = hub.find_language_model(job.language_model) if job.language_model else None
    if language_model is not None:
        open_language_model(language_model)
    folders = hub.find(job.model, job.variant)
    adapter = hub.find_adapter(job.adapter) if job.adapter else None
    stamped = file_stamp(folders, adapter, language_model)
    is_turbo = verify(folders, adapter).is_turbo
    refuse_repeats(job, settings, first, is_turbo)
    return OpenedJob(
        output=output,
        rows=chain([first], rows),
        settings=settings,
        fingerprint=fingerprint(folders, adapter, job.adapter_scale),
        stamp=stamped,
        language_model_fingerprint=folder_fingerprint(language_model) if language_model else None,
        is_turbo=is_turbo,
        tracker=Tracker(job.tracking, job.name, output, job.output),
        notes=tuple(filter(None, [open_adapter(adapter).note()])) if adapter else (),
    )


def option_errors(job: RestyleJob) -> Iterator[RequestError]:
    """What is wrong with the values that no file is needed to judge."""
    if job.audio_format not in FORMATS:
        yield RequestError(f"audio_format {job.audio_format!r} is unknown; use one of {', '.join(FORMATS)}")
    if job.dtype is not None and job.dtype not in DTYPES:
        yield RequestError(f"dtype {job.dtype!r} is unknown; use one of {', '.join(DTYPES)}")
    if job.max_attempts < 2:
        yield RequestError(
            f"max_attempts {job.max_attempts}: a death may be a neighbour's fault; allow at least 2"
        )
    if not job.source_timeout_s > 0:
        yield RequestError(f"source_timeout_s {job.source_timeout_s!r} must be above zero")
    if job.duplicates not in DUPLICATES:
        yield RequestError(f"grid.duplicates {job.duplicates!r} is unknown; use one of {', '.join(DUPLICATES)}")
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
    """What is left to do, with which model and settings.

    Args:
        todo, final: see ``make_plan``.

    Raises:
        RequestError: the folder holds another model's covers, or the grid repeats itself.
    """
    model = ModelFacts(
        job.model,
        opened.fingerprint,
        opened.is_turbo,
        dtype,
        opened.language_model_fingerprint,
        job.compiled,
        opened.stamp,
    )
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
    lost = lost_covers(opened.output)
    finished = finished_items(opened.output, job.retry_failed) - lost
    carried_columns = CarriedColumns(opened.output) if job.manifest_columns and finished else None
    probes = ProbeCache(opened.output, launch, ReadTimeout(job.source_timeout_s), changed_sources(opened.output))
    plan = make_plan(opened.rows, rules, finished, probes.of, todo, final, carried_columns)
    plan.lost = lost & plan.ids
    return plan, model, _run(opened.settings, plan, job.duplicates, opened.is_turbo)


def dry_run(job: RestyleJob, rates_from: str | None = None) -> Estimate:
    """What ``run`` would do, without a cluster and without a cover; sources are looked at, as always.

    Args:
        rates_from: another output folder, whose covers tell the rates where this one holds none of the model.

    Raises:
        RestyleError: see ``open_job`` and ``plan_job``, or the output folder cannot be written.
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
    """What workers compute in; where nobody said, as if they ran on this machine."""
    return job.dtype or default_dtype(torch.cuda.is_available())


def _by_hand(job: RestyleJob) -> list[str]:
    swept = (name for name, values in job.grid.items() if values is not None)
    return [*job.by_hand, *swept, *dict.fromkeys(name for point in job.points for name in point.values)]


def _run(settings: list[Setting], plan: Plan, duplicates: str, is_turbo: bool) -> list[Setting]:
    """The settings that some item has, each with the names of those it stands for."""
    if duplicates == "run_once":
        once = distinct(settings, is_turbo, duplicates)
        if plan.settings <= {setting.setting_id for setting in once}:
            settings = once
    return [setting for setting in settings if setting.setting_id in plan.settings] or settings


def refuse_other_models(output: Store, model: ModelFacts, mix_models: bool) -> None:
    """Refuse a folder that holds covers of another model.

    Raises:
        RequestError: it does, and mixing was not asked for.
    """
    others = made_with(output) - {model.fingerprint}
    if others and not mix_models:
        raise RequestError(
            f"the output folder holds covers made with another model ({', '.join(sorted(others))}, and this is "
            f"{model.fingerprint}); use another folder, or allow it with mix_models=true"
        )


def existing_output(uri: str) -> Store:
    """The output folder of an earlier job.

    Raises:
        RequestError: there is none.
    """
    store = open_store(uri)
    if not store.exists(""):
        raise RequestError(f"output {uri}: no such folder; name a folder of jobs.restyle or jobs.measure")
    return store
