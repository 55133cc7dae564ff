"""Items: one track with one setting, and the id that says what its audio depends on."""

import hashlib
import json
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
from pipeline.catalogue.presets import unset


@dataclass(frozen=True)
class ModelFacts:
    """What of a model determines the audio and the meaning of a setting.

    language_model: fingerprint of the one that fills in musical facts; None where none is asked.
    compiled: by torch.compile, which rounds in other places.
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
    """What a job lays down for its rows.

    by_hand: parameters that were given for the job, by command line or grid, which a row's preset leaves alone.
    duplicates: "refuse" or "run_once": what to do where a row's own values make two settings the same.
    preset: the job's own, for rows without one.
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
        """Parameters that a row cannot set, and who sets them."""
        staged = {name for setting in self.settings for name in own_names(setting.stages)}
        swept = {name for setting in self.settings for name in setting.varied}
        if len({setting.seed for setting in self.settings}) > 1:
            swept.add("seed")
        return dict.fromkeys(staged, "set by a stage") | dict.fromkeys(swept, "swept by the grid")


def row_values(track: Track, rules: ItemRules) -> dict[str, Any]:
    """What a row sets: its own values, and those of its preset that nobody set by hand.

    Raises:
        RequestError: the row sets what the job sweeps or a stage sets.
    """
    for name in sorted(track.overrides.keys() & rules.closed_to_rows.keys()):
        raise RequestError(
            f"{name} is given in the manifest and {rules.closed_to_rows[name]}; take it out of one of them"
        )
    suggested = unset(track.preset, {*rules.by_hand, *track.overrides}) if track.preset else {}
    return suggested | dict(track.overrides)


def make_items(track: Track, source: str, reference: str | None, rules: ItemRules) -> Iterator[dict[str, Any]]:
    """The items of one track, as rows of ``ITEM``.

    Args:
        source, reference: digests of the files' bytes, or their names where they cannot be read.

    Raises:
        RequestError: see ``row_values``; or with this row's values two settings would give identical audio.
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
        what = {
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
        item_id = digest_of({"track_id": track.track_id} | what)
        ids[setting.setting_id, setting.seed] = item_id
        if item_id in made:
            if rules.duplicates == "run_once":
                continue
            if not values:
                distinct(rules.settings, rules.model.is_turbo)  # raises, explaining every repeat of the grid
            raise RequestError(
                f"with this row's {', '.join(values)} the settings {made[item_id]} and {setting.name} give "
                "identical audio; take the override out of the manifest or one of them out of the grid, or keep "
                "the first with grid.duplicates=run_once"
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
    """A seed drawn by a name, such as a track's: every launch draws the same one, so that a job can go on."""
    return int(digest_of({"seed of": name}), 16) % SEED_LIMIT


def refuse_seed(setting: Setting, seed: int) -> None:
    """Refuse a seed that a stage would retake with itself.

    Raises:
        RequestError: naming the seed.
    """
    if any(s.setting.retake_variance > 0 and s.setting.retake_seed == seed for s in setting.stages):
        raise RequestError(f"retake_seed {seed} is the seed itself; give another, or retake_variance 0")


@lru_cache(maxsize=4096)
def _resolved(
    stages: tuple[Stage, ...], overrides: tuple[tuple[str, Any], ...], is_turbo: bool, hears_reference: bool
) -> tuple[str, str]:
    """A digest of what runs, and the stages as JSON: the same for every track that overrides the same."""
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
    """A short name for plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def item_columns(item: Mapping[str, Any]) -> dict[str, Any]:
    """The result columns that an item of a plan fixes: its ids and what was requested."""
    stages = json.loads(item["stages"])
    ids = ("item_id", "setting_id", "setting_name", "seed", "parent_item_id")
    words = {} if stages[-1]["caption"] is None else {"caption": stages[-1]["caption"]}
    return (
        {name: item[name] for name in ids}
        | {"stage": len(stages)}
        | {name: stages[-1][name] for name in SETTING_FIELDS}
        | words
    )


def effective_columns(plan: CoverPlan) -> dict[str, Any]:
    """The result columns that say what really ran."""
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
