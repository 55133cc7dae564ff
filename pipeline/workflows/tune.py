"""Tunes a catalogue: searches the best strength and guidance on a sample, in rounds of covers."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import yaml

from acestep.constants import RANDOM_SEED, SEED_LIMIT
from acestep.errors import RequestError
from acestep.sampling.setting import CoverSetting
from pipeline.catalogue.grid import Point, distinct, make_settings
from pipeline.catalogue.manifest import Track, read_manifest
from pipeline.catalogue.own_columns import own_values
from pipeline.catalogue.table_reader import COLUMNS, check_columns, filled, rows_of
from pipeline.catalogue.text_manifest import RawRow
from pipeline.catalogue.track_ids import track_id_of
from pipeline.evaluation.objective import SCORE
from pipeline.evaluation.sampling import hash_sample
from pipeline.evaluation.tuning import SearchSpace, Trial, TuningResult, tune
from pipeline.planning.items import drawn_seed
from pipeline.planning.model_files import find_model_files
from pipeline.report.findings import Findings
from pipeline.storage.lease import LeasedStore, hold_lease
from pipeline.storage.store import Store, absolute, no_empty_folders, open_output, open_store
from pipeline.tracking.spec import TrackingSpec
from pipeline.workflows.compare import compare_in
from pipeline.workflows.restyle import Reporter, run_in
from pipeline.workflows.restyle_job import check_options
from pipeline.workflows.specs import CompareJob, RestyleJob, TuneSpec

SAMPLE, PRESET = "tune/tracks.jsonl", "preset/tuned.yaml"
STRENGTH, GUIDANCE = "audio_cover_strength", "guidance_scale"
SWEPT = (STRENGTH, GUIDANCE, "seed")


@dataclass(frozen=True)
class TuneResult:
    """The result of tuning: the best setting, the findings over all covers, and tracking links."""

    strength: float
    guidance: float
    findings: Findings
    links: Mapping[str, str]


def tune_catalogue(job: RestyleJob, spec: TuneSpec, reporter: Reporter, say: Callable[[str], None]) -> TuneResult:
    """Find the best strength and guidance for a catalogue.

    Every cover becomes a row of the output folder; the same command resumes an interrupted search.

    Args:
        say: called with a sentence about each step.

    Raises:
        RestyleError: see ``pipeline.workflows.restyle.run``; or nothing was measured.
    """
    _check(job, spec)
    with (
        no_empty_folders(open_store(job.output)),
        hold_lease(open_output(job.output), f"output {job.output}", reporter.warned) as output,
    ):
        return _tune_in(output, job, spec, reporter, say)


def _check(job: RestyleJob, spec: TuneSpec) -> None:
    check_options(job)
    if not job.metrics.enabled:
        reason = "is false, and tuning lives by what is measured"
        raise RequestError("conflict", reason, "take it out", "metrics.enabled")
    for name, count in (("tracks", spec.tracks), ("seeds", spec.seeds)):
        if count < 1:
            raise RequestError("out_of_range", "may not be below 1", field=f"tune.{name}", value=count)


def _tune_in(
    output: LeasedStore, job: RestyleJob, spec: TuneSpec, reporter: Reporter, say: Callable[[str], None]
) -> TuneResult:
    tracks = write_sample(job, spec.tracks, output)
    seeds = _seeds(job, spec.seeds, say)
    space = _space(job, spec, say)
    sampled = replace(
        job,
        manifest=output.path(SAMPLE) if output.is_local else _within(job.output, SAMPLE),
        catalogue=job.name,
        grid={},
        tracking=TrackingSpec(enabled=False),  # tracked once, at the end, with all rounds
        findings=replace(job.findings, listen_tracks=0, pictures=False),
    )
    tuned = tune(space, tracks, list(seeds), partial(_evaluate, output, sampled, reporter), say, spec.budget)
    if tuned.mean == 0:
        say(
            "no cover kept the song and moved its sound, so there was nothing to choose by; the setting is a guess"
        )
    compared = CompareJob(job.output, job.name, job.findings, job.tracking)
    findings, links = compare_in(output, compared, reporter.warned)
    output.write(PRESET, preset_text(job, tuned).encode())
    return TuneResult(tuned.strength, tuned.guidance, findings, links)


def _evaluate(
    output: LeasedStore, job: RestyleJob, reporter: Reporter, trials: Sequence[Trial]
) -> list[float | None]:
    """Make the covers of a round and score them."""
    tracks_of: dict[tuple[float, float, int], set[str]] = {}
    for trial in trials:
        key = (trial.audio_cover_strength, trial.guidance_scale, trial.seed)
        tracks_of.setdefault(key, set()).add(trial.track_id)
    points = [
        Point(dict(zip(SWEPT, key, strict=True)), frozenset(tracks)) for key, tracks in sorted(tracks_of.items())
    ]
    summary = run_in(output, replace(job, points=points), reporter)
    if summary.findings is None:  # none of the round's tracks could be run
        return [None] * len(trials)
    rows = summary.findings.rows.select([*SWEPT, "track_id", SCORE]).to_pylist()
    scores = {(row[STRENGTH], row[GUIDANCE], row["seed"], row["track_id"]): row[SCORE] for row in rows}
    return [scores.get((t.audio_cover_strength, t.guidance_scale, t.seed, t.track_id)) for t in trials]


def _within(uri: str, name: str) -> str:
    """The URI of a file in a remote folder, with the folder's URI options."""
    folder, mark, options = uri.partition("?")
    return f"{folder.rstrip('/')}/{name}{mark}{options}"


def _seeds(job: RestyleJob, count: int, say: Callable[[str], None]) -> range:
    first = int(job.cover["seed"])
    if first == RANDOM_SEED:
        first = drawn_seed(job.name) % (SEED_LIMIT - count)
        say(f"cover.seed is {RANDOM_SEED}: seeds count up from {first}, which is drawn by the catalogue's name")
    return range(first, first + count)


def _space(job: RestyleJob, spec: TuneSpec, say: Callable[[str], None]) -> SearchSpace:
    """The search space without values that give identical covers on this model."""
    is_turbo = find_model_files(job.model, job.variant, job.adapter).verify()
    guidances = spec.guidances
    if is_turbo and len(guidances) > 1:
        say("a turbo model has guidance built in, so only the strength is sought")
        guidances = guidances[:1]
    settings = make_settings(job.cover, {STRENGTH: list(spec.strengths), GUIDANCE: guidances[0]})
    strengths = tuple(setting.cover.audio_cover_strength for setting in distinct(settings, is_turbo, "run_once"))
    left_out = sorted(set(spec.strengths) - set(strengths))
    if left_out:
        say(f"strength {', '.join(f'{s:g}' for s in left_out)} would give the same steps as another; left out")
    return SearchSpace(strengths, guidances)


def write_sample(job: RestyleJob, count: int, output: Store) -> list[str]:
    """Write a sample of the tracks, picked by hash, as a manifest; returns their ids."""
    rows = read_manifest(job.manifest, job.presets, job.caption, job.manifest_columns)
    chosen = hash_sample((row.track_id for row in rows if isinstance(row, Track)), count)
    if not chosen:
        raise RequestError("invalid_value", f"{job.manifest} holds no track that can be run", "see jobs.validate")
    raw = rows_of(job.manifest, partial(check_columns, needs_caption=not job.caption, own=job.manifest_columns))
    lines = [json.dumps(row, default=str) for row in _sampled(raw, set(chosen), job.manifest)]
    output.write(SAMPLE, "\n".join(lines).encode())
    return chosen


def _sampled(rows: Iterable[RawRow], chosen: set[str], manifest: str) -> Iterator[dict[str, Any]]:
    for row in rows:
        values = filled(row.values)
        track_id = "" if row.defect else _id_of(values)
        if track_id in chosen:
            chosen.discard(track_id)
            # Rows must not override the swept parameters.
            kept = {
                name: value
                for name, value in row.values.items()
                if name not in SWEPT and (name not in COLUMNS or name in values)
            }
            kept |= own_values(values, COLUMNS)
            for name in ("source", "reference_audio"):
                if name in kept:
                    kept[name] = absolute(str(kept[name]), manifest)
            yield kept


def _id_of(values: Mapping[str, Any]) -> str:
    try:
        return track_id_of(values.get("track_id", ""))
    except RequestError:
        return ""


def preset_text(job: RestyleJob, tuned: TuningResult) -> str:
    """A preset file with the best setting and the other settings of its covers; ``ranges`` holds the settings that
    cannot be told apart from it."""
    near = [(tuned.strength, tuned.guidance), *tuned.alternatives]
    strengths, guidances = sorted({s for s, _ in near}), sorted({g for _, g in near})
    between = "" if tuned.low is None else f" ({tuned.low:.2f}..{tuned.high:.2f})"
    usual = asdict(CoverSetting())
    held = {name: value for name, value in job.cover.items() if name in usual and value != usual[name]}
    values = held | {STRENGTH: tuned.strength, GUIDANCE: tuned.guidance}
    found = {
        "preset": {
            "name": "tuned",
            "caption": job.caption,
            "ranges": {STRENGTH: [strengths[0], strengths[-1]], GUIDANCE: [guidances[0], guidances[-1]]},
        },
        "cover": {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()},
    }
    return (
        "# @package _global_\n"
        f"# Found by jobs.tune on a sample of {job.name} with {job.model}: score {tuned.mean:.2f}{between}, by\n"
        f"# {tuned.generations} covers of the {tuned.full_grid} of the full grid. ranges hold what could not be "
        "told from it.\n" + yaml.safe_dump(found, sort_keys=False, allow_unicode=True)
    )
