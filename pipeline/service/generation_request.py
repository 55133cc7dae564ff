"""Generation requests: one client request as a track of a plan with its items."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from acestep.audio.files import EXTENSIONS
from acestep.generation.params import (
    SUPPORTED,
    SUPPORTED_CONFIG,
    THINKING,
    GenerationConfig,
    GenerationParams,
)
from acestep.generation.request import (
    check_request,
    ineffective_request_notes,
    pick_seeds,
    prompt_of,
    setting_of,
    stages_of,
)
from acestep.sampling.plan import plan_values, resolve
from pipeline.catalogue.grid import make_settings
from pipeline.catalogue.manifest import Track
from pipeline.planning.items import ItemRules, ModelFacts, digest_of, make_items
from pipeline.service.config import Limits
from pipeline.service.problem_details import ProblemError
from pipeline.service.source_access import AdmittedSource

ID_CHARACTERS = 20


@dataclass(frozen=True)
class GenerationRequest:
    """One request, ready for the scheduler.

    id: unguessable, since it grants access to the result.
    track: a row of a plan, with ``params`` and ``config`` of the request in addition to its columns.
    covers: the item id of each output; ``track["items"]`` also holds the earlier stages of these covers.
    owner: digest of the key that the request came with; "" for an open service.
    notes: parameters without effect or with another effect. A cover that an earlier request made has the notes of
        that request in its row.
    """

    id: str
    track: Mapping[str, Any]
    covers: tuple[str, ...]
    owner: str = ""
    notes: tuple[str, ...] = ()

    @property
    def item_ids(self) -> tuple[str, ...]:
        return tuple(item["item_id"] for item in self.track["items"])

    @property
    def extension(self) -> str:
        """File extension of the covers."""
        audio_format = self.track["config"]["audio_format"]
        return EXTENSIONS.get(audio_format, audio_format)


@dataclass(frozen=True)
class CheckedRequest:
    """A request checked without its source.

    settings, effective: requested and effective values of each stage, by name; notes say why they differ.
    """

    settings: list[dict[str, Any]]
    effective: list[dict[str, Any]]
    notes: list[str]


def check_parameters(
    params: GenerationParams, config: GenerationConfig, model: ModelFacts, limits: Limits
) -> CheckedRequest:
    """Check all parameters of a request.

    Raises:
        RequestError: a value is unknown, out of range or not supported, as for ``generate_music``.
        ProblemError: the service refuses a value beyond that.
    """
    _refuse_long(asdict(params), limits)
    _refuse_halves(asdict(params))
    params, config = check_request(params, config)
    if params.audio_codes:
        reason = "is not served over HTTP, where every cover is measured beside its source"
        raise ProblemError(
            "not_served", reason, "send src_audio, or use generate_music", "audio_codes", params.audio_codes
        )
    if params.thinking and model.language_model is None:
        remedy = "switch it off, or start the service with language_model="
        raise ProblemError(
            "not_served", "needs a language model, and this service has none", remedy, "thinking", True
        )
    seeds = pick_seeds(params.seed, config)
    if len(set(seeds)) < len(seeds):
        raise ProblemError("invalid_value", "lists a seed twice", "list each once", "seeds", seeds)
    stages = stages_of(params)
    plans = [resolve(stage.setting, model.is_turbo) for stage in stages]
    prompt, notes = prompt_of(params)
    notes += [
        *(note for stage in stages for note in stage.notes(prompt)),
        *ineffective_request_notes(params, config),
    ]
    return CheckedRequest(
        settings=[asdict(stage.setting) for stage in stages],
        effective=[plan_values(plan) for plan in plans],
        notes=[*notes, *dict.fromkeys(note for plan in plans for note in plan.notes)],
    )


def make_generation_request(
    params: GenerationParams,
    config: GenerationConfig,
    source: AdmittedSource,
    reference: AdmittedSource | None,
    model: ModelFacts,
    limits: Limits,
    owner: str = "",
) -> GenerationRequest:
    """Make the generation request; its items have the ids of a catalogue's items with this ``track_id``.

    Raises:
        RequestError, ProblemError: see ``check_parameters``.
    """
    checked = check_parameters(params, config, model, limits)
    params, config = check_request(params, config)
    prompt, notes = prompt_of(params)
    seeds = pick_seeds(params.seed, config)
    values = asdict(setting_of(params)) | {"seed": seeds[0]}
    settings = make_settings(values, {"seed": seeds} if seeds[1:] else {}, params.stages)
    track = Track(
        track_id=source.digest[:ID_CHARACTERS],
        source=source.uri,
        prompt=prompt,
        reference=reference.uri if reference else None,
        notes=tuple(notes),
    )
    facts = model if params.thinking else ModelFacts(**asdict(model) | {"language_model": None})
    rules = ItemRules(settings, facts, config.audio_format, limits.source_seconds)
    own = beyond_items(params, config)
    items = list(make_items(track, source.digest, reference.digest if reference else None, rules))
    renamed = {
        item["item_id"]: digest_of({"item": item["item_id"], "own": own}) if own else item["item_id"]
        for item in items
    }
    last = max(len(json.loads(item["stages"])) for item in items)
    return GenerationRequest(
        id=secrets.token_urlsafe(18),
        track={
            "track_id": track.track_id,
            "source": track.source,
            "source_digest": source.digest,
            "reference": track.reference,
            "reference_digest": reference.digest if reference else None,
            "prompt": json.dumps(asdict(prompt)),
            "preset": None,
            "notes": list(track.notes),
            "source_duration_s": source.duration_s,
            "params": asdict(params) | {"src_audio": None, "reference_audio": None},
            "config": asdict(config) | {"seeds": seeds},
            "items": [
                item
                | {
                    "item_id": renamed[item["item_id"]],
                    "parent_item_id": renamed.get(item["parent_item_id"]),
                }
                for item in items
            ],
        },
        covers=tuple(renamed[item["item_id"]] for item in items if len(json.loads(item["stages"])) == last),
        owner=owner,
        notes=tuple(checked.notes),
    )


def beyond_items(params: GenerationParams, config: GenerationConfig) -> dict[str, Any]:
    """Non-default parameters that determine the audio and are not part of a catalogue's item."""
    own = {
        name: getattr(params, name)
        for name, parameter in SUPPORTED.items()
        if not parameter.in_item and (params.thinking or THINKING not in parameter.needs)
    }
    own |= {
        name: getattr(config, name)
        for name, parameter in SUPPORTED_CONFIG.items()
        if not parameter.in_item and all(condition.holds(config) for condition in parameter.needs)
    }
    declared = {**SUPPORTED, **SUPPORTED_CONFIG}
    return {name: value for name, value in own.items() if value != declared[name].default}


def _refuse_long(values: Mapping[str, Any], limits: Limits) -> None:
    """Refuse too long texts and too many stages, which would occupy a model or the service without bound (422)."""
    for name, text in values.items():
        max_characters = limits.lyrics_characters if name.endswith("lyrics") else limits.caption_characters
        if isinstance(text, str) and len(text) > max_characters:
            said = f"has {len(text)} characters"
            raise ProblemError("too_long", said, "", name, text, allowed=f"at most {max_characters}", status=422)
    stages = values["stages"]
    if isinstance(stages, list):
        if len(stages) > limits.stages:
            most = f"at most {limits.stages}"
            reason = "covers are too many"
            raise ProblemError("too_long", reason, "", "stages", len(stages), allowed=most, status=422)
        for stage in stages:
            if isinstance(stage, Mapping):
                _refuse_long({"stages": None, **stage}, limits)


def _refuse_halves(values: Mapping[str, Any]) -> None:
    """Refuse unpaired surrogates (422), which JSON allows and UTF-8 does not."""
    for name, value in values.items():
        try:
            json.dumps(value, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise ProblemError("garbled_text", "holds half a character", "", name, ascii(value)) from None
