"""Work items: one track with one setting, and the content-addressed id of its audio."""

import hashlib
import json
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from acestep.constants import MAX_SOURCE_SECONDS, NUMERICS_VERSION, RANDOM_SEED, SEED_LIMIT
from acestep.errors import RequestError
from acestep.generation.stages import Stage
from acestep.sampling.plan import CoverPlan, resolve
from acestep.sampling.setting import SETTING_FIELDS, parse_setting
from pipeline.catalogue.grid import Setting, distinct, own_names
from pipeline.catalogue.manifest import Track
from pipeline.catalogue.own_columns import META
from pipeline.catalogue.presets import unset


@dataclass(frozen=True)
class ModelFacts:
    """The facts of a model that determine the audio and the meaning of a setting.

    language_model: fingerprint of the language model that fills in musical facts; None without one.
    compiled: by torch.compile, which rounds differently.
    stamp: of the files, taken before they were read for the fingerprints; see ``acestep.checkpoints.file_stamps``.
    """

    name: str
    fingerprint: str
    is_turbo: bool
    dtype: str
    language_model: str | None = None
    compiled: bool = False
    stamp: str = ""


@dataclass(frozen=True)
class ItemRules:
    """The job's rules for turning tracks into items.

    by_hand: parameters that were set explicitly for the job, by command line or grid; a row's preset does not
        change them.
    duplicates: "refuse" or "run_once", for settings that a row's own values make identical.
    preset: the job's preset, for rows without their own.
    """

    settings: Sequence[Setting]
    model: ModelFacts
    audio_format: str = "flac"
    max_seconds: float = MAX_SOURCE_SECONDS
    by_hand: Collection[str] = ()
    duplicates: str = "refuse"
    preset: str | None = None

    @cached_property
    def closed_to_rows(self) -> dict[str, str]:
        """Parameters that a row cannot set, with the reason."""
        staged = {name for setting in self.settings for name in own_names(setting.stages)}
        swept = {name for setting in self.settings for name in setting.varied}
        if len({setting.seed for setting in self.settings}) > 1:
            swept.add("seed")
        return dict.fromkeys(staged, "set by a stage") | dict.fromkeys(swept, "swept by the grid")


def row_values(track: Track, rules: ItemRules) -> dict[str, Any]:
    """Parameters that a row sets: its own values, and those of its preset that are not set explicitly.

    Raises:
        RequestError: the row sets a parameter that the grid sweeps or a stage sets.
    """
    for name in sorted(track.overrides.keys() & rules.closed_to_rows.keys()):
        remedy = "take it out of one of them"
        raise RequestError("conflict", f"is given in the manifest and {rules.closed_to_rows[name]}", remedy, name)
    suggested = unset(track.preset, {*rules.by_hand, *track.overrides}) if track.preset else {}
    return suggested | dict(track.overrides)


def make_items(track: Track, source: str, reference: str | None, rules: ItemRules) -> Iterator[dict[str, Any]]:
    """Items of one track, as rows of ``ITEM``.

    Args:
        source, reference: digests of the files' bytes, or their names where they cannot be read.

    Raises:
        RequestError: see ``row_values``; or two settings give identical audio with this row's values.
    """
    values = row_values(track, rules)
    prompt = asdict(track.prompt)
    made: dict[str, str] = {}
    ids: dict[tuple[str | None, int], str] = {}
    overrides = tuple((name, value) for name, value in sorted(values.items()) if name != "seed")
    for setting in rules.settings:
        if setting.tracks is not None and track.track_id not in setting.tracks:
            continue
        seed = values.get("seed", setting.seed)
        if seed == RANDOM_SEED:
            seed = drawn_seed(track.track_id)
        refuse_seed(setting, seed)
        runs, written = _resolved(setting.stages, overrides, rules.model.is_turbo, reference is not None)
        identity = {
            "source": source,
            "reference": reference,
            "prompt": prompt,
            "runs": runs,
            "seed": seed,
            "model": rules.model.fingerprint,
            "language_model": rules.model.language_model,
            "dtype": rules.model.dtype,
            **({"compiled": True} if rules.model.compiled else {}),
            "numerics": NUMERICS_VERSION,
            "format": rules.audio_format,
        }
        item_id = digest_of({"track_id": track.track_id} | identity)
        ids[setting.setting_id, setting.seed] = item_id
        if item_id in made:
            if rules.duplicates == "run_once":
                continue
            if not values:
                distinct(rules.settings, rules.model.is_turbo)  # raises, explaining every repeat of the grid
            remedy = (
                "take the override out of the manifest or one of them out of the grid, or keep the first "
                "with grid.duplicates=run_once"
            )
            raise RequestError(
                "invalid_value",
                f"with this row's {', '.join(values)} the settings {made[item_id]} and {setting.name} give "
                "identical audio",
                remedy,
            )
        made[item_id] = setting.name
        yield {
            "item_id": item_id,
            "setting_id": setting.setting_id,
            "setting_name": setting.name,
            "stages": written,
            "seed": seed,
            "parent_item_id": setting.parent and ids[setting.parent, setting.seed],
        }


def drawn_seed(name: str) -> int:
    """A seed derived from a name, such as a track's; equal in every launch, so that jobs can resume."""
    return int(digest_of({"seed of": name}), 16) % SEED_LIMIT


def refuse_seed(setting: Setting, seed: int) -> None:
    """Refuse a seed that equals the retake seed of a stage.

    Raises:
        RequestError: naming the seed.
    """
    if any(s.setting.retake_variance > 0 and s.setting.retake_seed == seed for s in setting.stages):
        remedy = "give another, or retake_variance 0"
        raise RequestError("invalid_value", "is the seed itself", remedy, "retake_seed", seed)


@lru_cache(maxsize=4096)
def _resolved(
    stages: tuple[Stage, ...], overrides: tuple[tuple[str, Any], ...], is_turbo: bool, hears_reference: bool
) -> tuple[str, str]:
    """A digest of the resolved stages, and the stages as JSON; cached, since most tracks share their overrides."""
    stages = tuple(
        replace(stage, setting=parse_setting({k: v for k, v in overrides if k not in stage.own}, stage.setting))
        for stage in stages
    )
    runs = []
    for stage in stages:
        identity = resolve(stage.setting, is_turbo).identity()
        identity["reference_pick"] = stage.setting.reference_pick if hears_reference else None
        runs.append([identity, stage.caption, stage.lyrics])
    return digest_of({"runs": runs}), json.dumps([stage.values() for stage in stages])


def digest_of(content: Mapping[str, Any]) -> str:
    """A short SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def track_columns(track: Mapping[str, Any], model: ModelFacts) -> dict[str, Any]:
    """The result columns that a planned track and the model determine."""
    return {
        "track_id": track["track_id"],
        "source": track["source"],
        "reference_audio": track["reference"],
        "caption": json.loads(track["prompt"])["caption"],
        "preset": track["preset"],
        "notes": track["notes"],
        META: track.get(META),
        "source_duration_s": track["source_duration_s"],
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "dtype": model.dtype,
        "numerics_version": NUMERICS_VERSION,
        "node": platform.node(),
    }


def item_columns(item: Mapping[str, Any]) -> dict[str, Any]:
    """The result columns that a planned item determines: its ids and the requested parameters."""
    stages = json.loads(item["stages"])
    ids = ("item_id", "setting_id", "setting_name", "seed", "parent_item_id")
    caption = {} if stages[-1]["caption"] is None else {"caption": stages[-1]["caption"]}
    parameters = {name: stages[-1][name] for name in SETTING_FIELDS}
    return {name: item[name] for name in ids} | {"stage": len(stages)} | parameters | caption


def effective_columns(plan: CoverPlan) -> dict[str, Any]:
    """The result columns of the effective values."""
    return {
        "effective_guidance": plan.guidance,
        "effective_guidance_scale": plan.guidance_scale,
        "effective_inference_steps": plan.inference_steps,
        "effective_shift": plan.shift,
        "cover_steps": plan.cover_steps,
        "t_start": plan.t_start,
        "t_switch": plan.t_switch,
        "evaluations": plan.evaluations,
    }
