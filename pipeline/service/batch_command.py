"""The catalogue job that makes the same covers as a request: its manifest and its command line."""

import csv
import io
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from acestep.errors import RequestError
from acestep.generation.params import GenerationConfig, GenerationParams
from acestep.generation.request import setting_of
from acestep.sampling.setting import CoverSetting
from pipeline.catalogue.overrides import as_override
from pipeline.service.config import ServiceSpec
from pipeline.service.generation_request import beyond_items
from pipeline.storage.csv_escaping import cell

COLUMNS = ("caption", "lyrics", "language", "bpm", "keyscale", "timesignature")
# Settings of a service that change the covers of a request.
OF_THE_SERVICE = ("model", "variant", "adapter", "device", "dtype")


def manifest_of(track: Mapping[str, Any]) -> bytes:
    """A CSV manifest with the track of a request."""
    prompt = json.loads(track["prompt"])
    row = {"track_id": track["track_id"], "source": track["source"], "reference_audio": track["reference"] or ""}
    row |= {name: "" if prompt[name] is None else str(prompt[name]) for name in COLUMNS}
    text = io.StringIO()
    written = csv.DictWriter(text, list(row))
    written.writeheader()
    written.writerow({name: cell(text) for name, text in row.items()})
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
    """The command line of ``jobs.restyle`` with the settings of a request, quoted for a shell.

    Args:
        seeds: of the covers.
        grid: settings to sweep, in place of those of ``params``.

    Raises:
        RequestError: naming a parameter that a catalogue job does not have.
    """
    unknown = list(beyond_items(params, config))
    if params.instruction != GenerationParams.instruction:
        unknown.append("instruction")
    if unknown:
        remedy = "leave it at its default to run this as one"
        raise RequestError("unknown_value", f"{unknown[0]} is no parameter of a catalogue", remedy)
    swept = dict(grid or {}) | ({"seed": list(seeds)} if len(seeds) > 1 else {})
    own, usual = asdict(setting_of(params)), asdict(CoverSetting())
    values = {name: value for name, value in own.items() if value != usual[name] and name not in swept}
    values |= {} if "seed" in swept else {"seed": seeds[0]}
    words: dict[str, Any] = {"manifest": manifest, "output": output}
    words |= {name: getattr(spec, name) for name in OF_THE_SERVICE if getattr(spec, name)}
    if spec.adapter:
        words["adapter_scale"] = spec.adapter_scale
    if spec.compiled:
        words["compiled"] = True
    if params.thinking:
        words["language_model"] = spec.language_model
    if config.audio_format != "flac":
        words["audio_format"] = config.audio_format
    if params.stages:
        words["stages"] = params.stages
    words |= {f"cover.{name}": value for name, value in values.items()}
    words |= {f"grid.{name}": list(listed) for name, listed in swept.items()}
    if grid:
        # A page shows two identical cells twice; a catalogue makes the cover once.
        words["grid.duplicates"] = "run_once"
    arguments = (f"{name}={as_override(value)}" for name, value in words.items())
    return shlex.join([sys.executable, "-m", "jobs.restyle", *arguments])
