"""Layout of the page's controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from acestep.audio.files import FORMATS
from acestep.checkpoints.demo import ABOUT, VARIANTS
from acestep.constants import KEYSCALES, LANGUAGES, TIME_SIGNATURES
from acestep.generation.params import MAX_BATCH
from acestep.sampling.setting import PARAMETERS
from pipeline.service.config import ServiceSpec
from pipeline.service.page import text as words
from pipeline.service.page.handlers import PlayerEntry


@dataclass(frozen=True)
class Controls:
    """Controls of the page.

    fields: a control per name in ``text.FIELDS``.
    requests, results, across: state of one visitor: ids of the latest generations, their results, and the number
        of columns (None: no grid).
    """

    source: gr.Audio
    preset: gr.Dropdown
    fields: Mapping[str, Any]
    compared: gr.Markdown
    go: gr.Button
    stop: gr.Button
    said: gr.Markdown
    strengths: gr.Textbox
    guidances: gr.Textbox
    go_grid: gr.Button
    write: gr.Button
    write_grid: gr.Button
    command: gr.Textbox
    copy: gr.Button
    requests: gr.State
    results: gr.State
    across: gr.State


def build_layout(spec: ServiceSpec, is_turbo: bool) -> Controls:
    """Create the controls in the current Gradio blocks."""
    start = words.defaults(is_turbo)
    requests, results, across = gr.State([]), gr.State([]), gr.State(None)
    gr.Markdown(f"# Cover\nThe structure of a track in another style, by `{spec.model}`.")
    if spec.model in VARIANTS:
        gr.Markdown(words.escape_markdown(ABOUT), elem_id="about-model")
    with gr.Row():
        with gr.Column(min_width=320):
            source = gr.Audio(
                label="Source track",
                type="filepath",
                sources=["upload"],
                buttons=["download"],
                elem_id="source",
            )
            preset = gr.Dropdown(
                ["none", *words.preset_names(spec.presets)],
                value="none",
                label="Preset (sets caption and settings)",
                elem_id="preset",
            )
            fields = _words(start)
        with gr.Column(min_width=320):
            fields |= _settings(start)
            compared = gr.Markdown(elem_id="compared", elem_classes="measures")
    with gr.Row():
        go = gr.Button("Generate", variant="primary", elem_id="generate")
        stop = gr.Button("Cancel", elem_id="cancel")
    said = gr.Markdown(elem_id="status", elem_classes="status")
    _results(results, across, [preset, *(fields[name] for name in words.FIELDS)])
    with gr.Accordion("A small grid: strength across, guidance down", open=False, elem_id="grid"):
        with gr.Row():
            strengths = gr.Textbox("0.3, 0.6", label="Strengths, separated by commas", elem_id="strengths")
            guidances = gr.Textbox(
                "none: a turbo model ignores guidance" if is_turbo else "3, 9",
                label="Guidances, separated by commas",
                interactive=not is_turbo,
                elem_id="guidances",
            )
        go_grid = gr.Button("Generate the grid", elem_id="generate-grid")
    with gr.Accordion("Copy as batch config", open=True):
        gr.Markdown("What runs these settings as a catalogue job, from a checkout on this machine.")
        with gr.Row():
            write = gr.Button("Command for these settings", elem_id="write-command")
            write_grid = gr.Button("Command for the grid", elem_id="write-grid-command")
        # Gradio's copy button detaches the label, and a disabled text box cannot be focused by keyboard.
        command = gr.Textbox(label="Command", lines=3, elem_id="command", interactive=True)
        copy = gr.Button("Copy", elem_id="copy")
    return Controls(
        source=source,
        preset=preset,
        fields={name: fields[name] for name in words.FIELDS},
        compared=compared,
        go=go,
        stop=stop,
        said=said,
        strengths=strengths,
        guidances=guidances,
        go_grid=go_grid,
        write=write,
        write_grid=write_grid,
        command=command,
        copy=copy,
        requests=requests,
        results=results,
        across=across,
    )


def _words(start: Mapping[str, Any]) -> dict[str, Any]:
    """Controls of caption, lyrics and musical facts, by field."""
    made: dict[str, Any] = {
        "caption": gr.Textbox(label="Caption: the style to go to", info=words.ADVICE, lines=3, elem_id="caption"),
        "lyrics": gr.Textbox(label="Lyrics (empty: instrumental)", lines=2, elem_id="lyrics"),
    }
    with gr.Accordion("Facts of the music (left open: unknown)", open=False):
        made["vocal_language"] = gr.Dropdown(sorted(LANGUAGES), value=start["vocal_language"], label="Language")
        # Not gr.Number, which turns an empty field into 0.
        made["bpm"] = gr.Textbox(label="Tempo (bpm)", elem_id="bpm")
        made["keyscale"] = gr.Dropdown(["", *sorted(KEYSCALES)], value="", label="Key")
        made["timesignature"] = gr.Dropdown(["", *TIME_SIGNATURES], value="", label="Time signature")
    return made


def _settings(start: Mapping[str, Any]) -> dict[str, Any]:
    """Controls of the sampler and the output, by field."""
    made: dict[str, Any] = {}
    for name, (low, high, step) in words.SLIDERS.items():
        label = f"{PARAMETERS[name].label.capitalize()} ({name})"
        help_text = PARAMETERS[name].meaning
        made[name] = gr.Slider(low, high, start[name], step=step, label=label, info=help_text, elem_id=name)
    with gr.Row():
        methods = list(PARAMETERS["infer_method"].choices)
        made["infer_method"] = gr.Radio(methods, value=start["infer_method"], label="Method (infer_method)")
        made["audio_format"] = gr.Dropdown(list(FORMATS), value=start["audio_format"], label="File format")
    with gr.Row():
        made["seed"] = gr.Textbox(label="First seed (empty: drawn)", elem_id="seed")
        made["batch_size"] = gr.Slider(
            1, MAX_BATCH, 1, step=1, label="Covers, each with a seed of its own", elem_id="batch_size"
        )
    return made


def placed(values: Mapping[str, Any]) -> list[Any]:
    """Values for the controls, in order; a slider's range is widened to hold its value."""
    bounds = {name: (low, high) for name, (low, high, _) in words.SLIDERS.items()}
    return [
        value
        if name not in bounds or bounds[name][0] <= value <= bounds[name][1]
        else gr.update(value=value, minimum=min(bounds[name][0], value), maximum=max(bounds[name][1], value))
        for name, value in values.items()
    ]


def _results(results: gr.State, across: gr.State, used: Sequence[Any]) -> None:
    """Players with measures, in a list or as a grid.

    Args:
        used: the controls that "Use these settings" sets: the preset and the fields.
    """

    @gr.render(inputs=[results, across])
    def show(shown: list[PlayerEntry], width: int | None) -> None:
        # The source is in a row of its own.
        step = width or 1
        shared = words.shared_notes([one.row for one in shown if one.path and one.row])
        for row in [shown[:1], *(shown[begin : begin + step] for begin in range(1, len(shown), step))]:
            with gr.Row():
                for one in row:
                    with gr.Column(min_width=260, elem_classes="cell"):
                        _player(one, width is not None, shared, used)


def _player(shown: PlayerEntry, in_grid: bool, shared: Sequence[str], used: Sequence[Any]) -> None:
    if shown.error:
        gr.Markdown(f"**{shown.title}**: {words.escape_markdown(shown.error)}")
        return
    gr.Audio(shown.path, label=shown.title, interactive=False, buttons=["download"], elem_classes="player")
    if not shown.row:
        _notes(shared)
        return
    gr.Markdown(words.few_measures(shown.row) if in_grid else words.measures(shown.row), elem_classes="measures")
    _notes([note for note in shown.row["notes"] if note not in shared])
    use = gr.Button("Use these settings", size="sm", elem_classes="use")

    def take() -> list[Any]:
        gr.Info(f"The controls hold the settings of: {shown.title}")  # they may be scrolled out of view
        return ["none", *placed(shown.controls)]

    use.click(take, None, list(used), show_progress="hidden", api_visibility="private")


def _notes(notes: Sequence[str]) -> None:
    if notes:
        gr.Markdown(words.note_list(notes), elem_classes="measures notes")
