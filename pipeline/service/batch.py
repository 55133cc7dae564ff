"""From a request to the catalogue job that makes the same covers of a whole catalogue."""

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from acestep.errors import RequestError
from acestep.params import GenerationConfig, GenerationParams
from acestep.request import setting_of
from acestep.setting import CoverSetting
from pipeline.service.orders import beyond_items
from pipeline.service.spec import ServiceSpec

COLUMNS = {
    "caption": "caption",
    "lyrics": "lyrics",
    "vocal_language": "language",
    "bpm": "bpm",
    "keyscale": "keyscale",
    "timesignature": "timesignature",
}


def manifest_of(params: GenerationParams, track: Mapping[str, Any]) -> bytes:
    """A manifest (CSV) of the one track of an order, in the request's words."""
    row = {"track_id": track["track_id"], "source": track["source"], "reference_audio": track["reference"] or ""}
    for name, column in COLUMNS.items():
        value = getattr(params, name)
        row[column] = "" if value is None else str(value)
    text = io.StringIO()
    written = csv.DictWriter(text, list(row))
    written.writeheader()
    written.writerow(row)
    return text.getvalue().encode()


def command_of(
    manifest: str,
    output: str,
    spec: ServiceSpec,
    params: GenerationParams,
    config: GenerationConfig,
    seeds: Sequence[int],
    grid: Mapping[str, Sequence[Any]] | None = None,
) -> str:
    """The command line of ``jobs.restyle`` with the settings of a request.

    Args:
        grid: settings to sweep, in place of those of ``params``.

    Raises:
        RequestError: naming a parameter that a catalogue does not know.
    """
    unknown = [
        *beyond_items(params, config),
        *(["instruction"] if params.instruction != GenerationParams.instruction else []),
    ]
    if unknown:
        raise RequestError(
            f"{unknown[0]} is no parameter of a catalogue; leave it at its default to run this as one"
        )
    swept = dict(grid or {}) | ({"seed": list(seeds)} if len(seeds) > 1 else {})
    own, usual = asdict(setting_of(params)), asdict(CoverSetting())
    values = {name: value for name, value in own.items() if value != usual[name] and name not in swept}
    values |= {} if "seed" in swept else {"seed": seeds[0]}
    words: dict[str, Any] = {"manifest": manifest, "output": output}
    words |= {name: getattr(spec, name) for name in ("model", "variant", "adapter") if getattr(spec, name)}
    if params.thinking:
        words["language_model"] = spec.language_model
    if config.audio_format != "flac":
        words["audio_format"] = config.audio_format
    if params.stages:
        words["stages"] = params.stages
    words |= {f"cover.{name}": value for name, value in values.items()}
    words |= {f"grid.{name}": list(listed) for name, listed in swept.items()}
    return " ".join(["python -m jobs.restyle", *(shlex.quote(f"{k}={_hydra(v)}") for k, v in words.items())])


def _hydra(value: object) -> str:
    """A value as the command line of a job writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_hydra(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(_hydra, value)) + "]"
    if isinstance(value, str):
        # Hydra's own quoting: within quotes only the quote, and a backslash before one, are special.
        plain = value and all(c.isalnum() or c in "_-./:" for c in value) and not value[0].isdigit()
        return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return repr(value)
