"""Items: one track with one setting, and the id that says what its audio depends on."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa

from acestep.constants import NUMERICS_VERSION
from acestep.cover import CoverPlan, resolve
from acestep.errors import RequestError
from acestep.setting import SETTING_FIELDS, parse_setting
from acestep.stages import Stage
from pipeline.manifest import Track
from pipeline.presets import unset
from pipeline.settings import Setting

ITEM = pa.struct(
    [
        ("item_id", pa.string()),
        ("setting_id", pa.string()),
        ("setting_name", pa.string()),
        ("stages", pa.string()),  # the values of every Stage up to this one, as JSON
        ("seed", pa.int64()),
        ("parent_item_id", pa.string()),
    ]
)


@dataclass(frozen=True)
class ModelFacts:
    """What of a model determines the audio and the meaning of a setting.

    language_model: fingerprint of the one that fills in musical facts; None where none is asked.
    """

    name: str
    fingerprint: str
    is_turbo: bool
    dtype: str
    language_model: str | None = None


def refuse_conflicts(track: Track, settings: Sequence[Setting], staged: Collection[str]) -> None:
    """Refuse a row that sets what the job sweeps or a stage sets.

    Raises:
        RequestError: naming the parameter.
    """
    swept = {name for setting in settings for name in setting.varied}
    for names, who in ((swept, "swept by the grid"), (set(staged), "set by a stage")):
        clash = sorted(names & track.overrides.keys())
        if clash:
            raise RequestError(f"{clash[0]} is given in the manifest and {who}; take it out of one of them")


def row_values(track: Track, settings: Sequence[Setting], by_hand: set[str]) -> dict[str, Any]:
    """What a row sets: its own values, and those of its preset that nobody set by hand."""
    swept = {name for setting in settings for name in setting.varied}
    suggested = unset(track.preset, {*swept, *by_hand, *track.overrides}) if track.preset else {}
    return suggested | dict(track.overrides)


def make_items(
    track: Track,
    values: Mapping[str, Any],
    source: str,
    reference: str | None,
    settings: Sequence[Setting],
    model: ModelFacts,
    audio_format: str,
) -> Iterator[dict[str, Any]]:
    """The items of one track, as rows of ``ITEM``.

    Args:
        values: what the row sets, from ``row_values``.
        source, reference: digests of the files' bytes, or their names where they cannot be read.

    Raises:
        RequestError: with this row's values two settings would give identical audio.
    """
    prompt = asdict(track.prompt)
    seen: dict[str, str] = {}
    ids: dict[str, str] = {}
    overrides = tuple(
        sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in values.items() if k != "seed")
    )
    for setting in settings:
        seed = values.get("seed", setting.seed)
        runs, written = _resolved(setting.stages, overrides, model.is_turbo)
        what = {
            "source": source,
            "reference": reference,
            "prompt": prompt,
            "runs": runs,
            "seed": seed,
            "model": model.fingerprint,
            "language_model": model.language_model,
            "dtype": model.dtype,
            "numerics": NUMERICS_VERSION,
            "format": audio_format,
        }
        item_id = digest_of({"track_id": track.track_id} | what)
        if item_id in seen:
            raise RequestError(
                f"with this row's {', '.join(values)} the settings {seen[item_id]} and {setting.name} "
                "give identical audio; take the override out of the manifest or one of them out of the grid"
            )
        seen[item_id] = setting.name
        ids[setting.setting_id] = item_id
        yield {
            "item_id": item_id,
            "setting_id": setting.setting_id,
            "setting_name": setting.name,
            "stages": written,
            "seed": seed,
            "parent_item_id": setting.parent and ids[setting.parent],
        }


@lru_cache(maxsize=4096)
def _resolved(
    stages: tuple[Stage, ...], overrides: tuple[tuple[str, Any], ...], is_turbo: bool
) -> tuple[str, str]:
    """A digest of what runs, and the stages as JSON: the same for every track that overrides the same."""
    if overrides:
        stages = tuple(replace(stage, setting=parse_setting(dict(overrides), stage.setting)) for stage in stages)
    runs = [[resolve(s.setting, is_turbo).identity(), s.caption, s.lyrics] for s in stages]
    return digest_of({"runs": runs}), json.dumps([stage.values() for stage in stages])


def digest_of(content: Mapping[str, Any]) -> str:
    """A short name for plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def item_columns(item: Mapping[str, Any]) -> dict[str, Any]:
    """The result columns that an item of a plan fixes: its ids and what was requested."""
    stages = json.loads(item["stages"])
    ids = ("item_id", "setting_id", "setting_name", "seed", "parent_item_id")
    return (
        {name: item[name] for name in ids}
        | {"stage": len(stages)}
        | {name: stages[-1][name] for name in SETTING_FIELDS}
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
