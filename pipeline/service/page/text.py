"""Text and tables of the page, independent of Gradio."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from acestep.errors import RequestError
from acestep.generation.params import SUPPORTED, SUPPORTED_CONFIG, GenerationConfig, GenerationParams
from acestep.parameters.values import as_number, as_whole_number, is_empty
from acestep.sampling.plan import BASE_STEPS
from acestep.sampling.schedule import TURBO_STEPS
from acestep.sampling.setting import PARAMETERS, parse_values
from pipeline.catalogue.presets import Preset
from pipeline.service.generation_request import CheckedRequest
from pipeline.service.request_body import DEFAULTS

SLIDERS = {name: parameter.slider for name, parameter in PARAMETERS.items() if parameter.slider}
# Parameters with a control, in the order of the controls.
FIELDS = (
    "caption",
    "lyrics",
    "vocal_language",
    "bpm",
    "keyscale",
    "timesignature",
    *SLIDERS,
    "infer_method",
    "seed",
    "batch_size",
    "audio_format",
)
MAX_GRID = 9  # covers of one grid; larger grids are a catalogue job's work
SHOWN = (
    ("harmony/chroma_excess", "harmony kept"),
    ("melody/salience_excess", "melody kept"),
    ("rhythm/onset_corr", "rhythm kept"),
    ("structure/ssm_corr", "structure kept"),
    ("timbre/mfcc_distance", "timbre moved (dB)"),
    ("audio/lufs", "loudness (LUFS)"),
)
ADVICE = (
    "Say genre, instruments, mood and production: `heavy metal, distorted guitars, double bass drums, dark, "
    "loud and dense mix`. The source need not be described."
)


def defaults(is_turbo: bool) -> dict[str, Any]:
    """Initial values of the controls: the catalogue's defaults."""
    declared = {**SUPPORTED, **SUPPORTED_CONFIG}
    values = {name: DEFAULTS.get(name, declared[name].default) for name in FIELDS}
    return values | {"inference_steps": TURBO_STEPS if is_turbo else BASE_STEPS, "bpm": "", "seed": ""}


def request_of(values: Mapping[str, Any]) -> tuple[GenerationParams, GenerationConfig]:
    """The request that the controls describe; empty controls stay unset.

    Raises:
        RequestError: a value is not a number.
    """
    words: dict[str, Any] = {name: "" if values[name] is None else values[name] for name in FIELDS}
    for name in ("bpm", "seed"):
        if is_empty(words[name]):
            del words[name]
    for name in ("bpm", "inference_steps", "seed", "batch_size"):
        if name in words:
            words[name] = as_whole_number(name, words[name])
    config = GenerationConfig(batch_size=words.pop("batch_size", 1), audio_format=words.pop("audio_format"))
    words |= {name: as_number(name, words[name]) for name in SLIDERS if PARAMETERS[name].kind is float}
    return GenerationParams(task_type="cover", **words), config


def controls_of(params: GenerationParams, config: GenerationConfig, seed: int) -> dict[str, Any]:
    """Values of the controls for one cover of a request: the inverse of ``request_of``."""
    values = asdict(params) | {
        "bpm": "" if params.bpm is None else str(params.bpm),
        "seed": str(seed),
        "batch_size": 1,
        "audio_format": config.audio_format,
    }
    return {name: values[name] for name in FIELDS}


def preset_names(presets: Sequence[Preset]) -> dict[str, Preset]:
    """Presets by display name."""
    return {f"{preset.source_genre} \N{RIGHTWARDS ARROW} {preset.target_genre}": preset for preset in presets}


def preset_values(preset: Preset | None) -> dict[str, Any]:
    """The controls that a preset sets."""
    if preset is None:
        return {}
    return {"caption": preset.caption} | {name: v for name, v in preset.cover.items() if name in FIELDS}


def error_markdown(error: Exception) -> str:
    """An error as Markdown, with the visitor's text escaped."""
    return f"**Not possible:** {escape_markdown(str(error))}"


def escape_markdown(text: str) -> str:
    """Text with Markdown's special characters escaped."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+-.!|~$&" else c for c in text)


def comparison(checked: CheckedRequest) -> str:
    """Requested and effective values as a Markdown table, with notes on the differences."""
    requested, runs = checked.settings[-1], checked.effective[-1]
    steps = requested["inference_steps"]
    rows = [
        ("steps", "the model's own" if steps is None else steps, runs["inference_steps"]),
        (
            "strength",
            f"{requested['audio_cover_strength']:g}",
            f"{runs['cover_steps']} of {runs['inference_steps']} steps follow the source",
        ),
        ("guidance", f"{requested['guidance_scale']:g}", _guidance(runs)),
        ("shift", f"{requested['shift']:g}", "none" if runs["shift"] is None else f"{runs['shift']:g}"),
    ]
    if runs["t_start"] is not None:
        rows.append(
            ("start", f"{requested['cover_noise_strength']:g}", f"the noised source at time {runs['t_start']:.2f}")
        )
    table = "| | requested | will really run |\n|---|---|---|\n"
    table += "\n".join(f"| {name} | {said} | {run} |" for name, said, run in rows)
    return table + "".join(f"\n\n{escape_markdown(note)}" for note in checked.notes)


def _guidance(runs: Mapping[str, Any]) -> str:
    return "none" if runs["guidance_scale"] == 1 else f"{runs['guidance_scale']:g} ({runs['guidance']})"


def measures(row: Mapping[str, Any]) -> str:
    """A cover's steps and measures as a Markdown table; a missing measure is a dash."""
    head = " | ".join(name for _, name in SHOWN)
    cells = " | ".join(_number(row.get(column)) for column, _ in SHOWN)
    ran = f"{row['cover_steps']} of {row['effective_inference_steps']} steps followed the source"
    return f"{ran}\n\n| {head} |\n|{'---|' * len(SHOWN)}\n| {cells} |"


def shared_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The notes that all rows share."""
    return [note for note in rows[0]["notes"] if all(note in row["notes"] for row in rows)] if rows else []


def note_list(notes: Sequence[str]) -> str:
    """Notes as a Markdown list."""
    return "\n".join(f"- {escape_markdown(note)}" for note in notes)


def few_measures(row: Mapping[str, Any]) -> str:
    """The main measures in one line, for a cell of a grid."""
    return ", ".join(f"{name} {_number(row.get(column))}" for column, name in (*SHOWN[:3], SHOWN[4]))


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, int | float) else "-"


def grid_axis(name: str, text: str) -> list[float]:
    """Parse the comma-separated values of one axis.

    Raises:
        RequestError: a value is invalid, out of range or repeated.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    values = [parse_values({name: word})[name] for word in words]
    if not values or len(set(values)) < len(values):
        remedy = "give one or more values, each once, such as 0.3, 0.6"
        raise RequestError("invalid_value", "cannot be read", remedy, field=name, value=text)
    return values


def grid_of(strengths: str, guidances: str, is_turbo: bool) -> dict[str, list[float]]:
    """The axes of a grid; a turbo model, which ignores guidance, has one.

    Raises:
        RequestError: see ``grid_axis``; or the grid is too large for the page.
    """
    axes = {"audio_cover_strength": grid_axis("audio_cover_strength", strengths)}
    if not is_turbo:
        axes["guidance_scale"] = grid_axis("guidance_scale", guidances)
    count = math.prod(map(len, axes.values()))
    if count > MAX_GRID:
        remedy = "copy it as a batch config instead"
        raise RequestError("invalid_value", f"{count} covers are more than the {MAX_GRID} of a page", remedy)
    return axes


def status(done: int, covers: int, share: float, waiting_before: int) -> str:
    """Progress of a generation."""
    if share == 0 and waiting_before:
        return f"waiting: {waiting_before} covers come first"
    return f"{done} of {covers} covers done, {share:.0%} of all steps"
