"""The Cover page: the guide's controls over the service's own counter, mounted beside its routes."""

import hashlib
import hmac
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.responses import RedirectResponse

from acestep.audio import FORMATS
from acestep.constants import KEYSCALES, LANGUAGES, TIME_SIGNATURES
from acestep.errors import RestyleError
from pipeline.service import page_handlers as handlers
from pipeline.service import page_words as words
from pipeline.service.counter import Counter
from pipeline.service.spec import ServiceSpec

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # catalogues are nobody else's business

import gradio as gr

PATH = "/cover"
KEPT_S = 24 * 3600  # a visitor's copies of covers; the service's own are kept
CSS = """
.measures table { font-size: .85em; display: block; overflow-x: auto; border: 0; }
.measures th, .measures td { white-space: nowrap; }
.status { min-height: 1.6em; }
footer { display: none !important; }
"""
SYSTEM_FONTS = (["system-ui", "sans-serif"], ["ui-monospace", "monospace"])
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
News = AsyncGenerator[tuple[Any, ...], None]


def mount(app: FastAPI, spec: ServiceSpec, is_turbo: bool, keys: Sequence[str]) -> FastAPI:
    """The application with the page at ``/cover``, where ``/`` leads.

    Args:
        keys: SHA-256 digests; where there are any, a visitor is asked for a key as the password.
    """

    def knows(user: str, password: str) -> bool:
        digest = hashlib.sha256(password.encode()).hexdigest()
        return any(hmac.compare_digest(digest, known) for known in keys)

    @app.get("/", include_in_schema=False)
    async def start() -> RedirectResponse:
        return RedirectResponse(f"{PATH}/")

    fonts, mono = SYSTEM_FONTS
    return gr.mount_gradio_app(
        app,
        build(lambda: app.state.counter, spec, is_turbo),
        PATH,
        auth=knows if keys else None,
        auth_message="Any name; the password is a key of this service." if keys else None,
        max_file_size=int(spec.limits.upload_mb * 1e6),
        ssr_mode=False,
        footer_links=[],
        theme=gr.themes.Base(font=fonts, font_mono=mono).set(
            block_info_text_color="*neutral_700",
            block_info_text_color_dark="*neutral_300",
            block_title_text_color="*neutral_800",
            block_title_text_color_dark="*neutral_100",
        ),
        css=CSS,
    )


def build(counter: Callable[[], Counter], spec: ServiceSpec, is_turbo: bool) -> gr.Blocks:
    """The page.

    Args:
        counter: asked when something happens, since it opens after the page is built.
    """
    start, presets = words.defaults(is_turbo), words.preset_names(spec.presets)
    with gr.Blocks(title="Restyle: Cover", analytics_enabled=False, delete_cache=(3600, KEPT_S)) as page:
        orders, results, grid = gr.State([]), gr.State([]), gr.State(None)
        gr.Markdown(f"# Cover\nThe structure of a track in another style, by `{spec.model}`.")
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
                    ["none", *presets], value="none", label="Preset (sets caption and settings)", elem_id="preset"
                )
                fields: dict[str, Any] = {}
                fields["caption"] = gr.Textbox(
                    label="Caption: the style to go to", info=words.ADVICE, lines=3, elem_id="caption"
                )
                fields["lyrics"] = gr.Textbox(label="Lyrics (empty: instrumental)", lines=2)
                with gr.Accordion("Facts of the music (left open: unknown)", open=False):
                    fields["vocal_language"] = gr.Dropdown(
                        sorted(LANGUAGES), value=start["vocal_language"], label="Language"
                    )
                    fields["bpm"] = gr.Number(label="Tempo (bpm)", precision=0, value=None)
                    fields["keyscale"] = gr.Dropdown(["", *sorted(KEYSCALES)], value="", label="Key")
                    fields["timesignature"] = gr.Dropdown(["", *TIME_SIGNATURES], value="", label="Time signature")
            with gr.Column(min_width=320):
                fields |= _settings(start)
                compared = gr.Markdown(elem_id="compared", elem_classes="measures")
        with gr.Row():
            go = gr.Button("Generate", variant="primary", elem_id="generate")
            stop = gr.Button("Cancel", elem_id="cancel")
        said = gr.Markdown(elem_id="status", elem_classes="status")
        _results(results, grid)
        with gr.Accordion("A small grid: strength across, guidance down", open=False, elem_id="grid"):
            with gr.Row():
                strengths = gr.Textbox("0.3, 0.6", label="Strengths, separated by commas", elem_id="strengths")
                guidances = gr.Textbox(
                    "3, 9",
                    label="Guidances, separated by commas" + " (a turbo model ignores them)" * is_turbo,
                    interactive=not is_turbo,
                    elem_id="guidances",
                )
            go_grid = gr.Button("Generate the grid", elem_id="generate-grid")
        with gr.Accordion("Copy as batch config", open=True):
            gr.Markdown("What runs these settings as a catalogue job, from a checkout on this machine.")
            with gr.Row():
                write = gr.Button("Command for these settings", elem_id="write-command")
                write_grid = gr.Button("Command for the grid", elem_id="write-grid-command")
            command = gr.Textbox(label="Command", lines=3, buttons=["copy"], elem_id="command", interactive=False)
        _wire(
            counter,
            is_turbo,
            presets,
            source=source,
            preset=preset,
            fields=[fields[name] for name in words.FIELDS],
            axes=[strengths, guidances],
            compared=compared,
            said=said,
            states=[orders, results, grid],
            buttons={"go": go, "stop": stop, "grid": go_grid, "write": write, "write_grid": write_grid},
            command=command,
            page=page,
        )
    page.queue(max_size=spec.limits.waiting, default_concurrency_limit=None)
    return page


def _settings(start: dict[str, Any]) -> dict[str, Any]:
    """The controls of the sampler and the output, by field."""
    sliders = (
        (
            "audio_cover_strength",
            "LM Codes Strength (audio_cover_strength): the source's lead",
            0,
            1,
            0.01,
        ),
        ("guidance_scale", "Guidance (guidance_scale): how much the caption insists", 1, 15, 0.1),
        ("inference_steps", "Steps (inference_steps)", 1, 100, 1),
        ("shift", "Shift: more steps near noise", 1, 5, 0.1),
        ("cfg_interval_start", "Guidance begins (cfg_interval_start)", 0, 1, 0.01),
        ("cfg_interval_end", "Guidance ends (cfg_interval_end)", 0, 1, 0.01),
        ("cover_noise_strength", "Start from the source itself (cover_noise_strength)", 0, 1, 0.01),
    )
    made: dict[str, Any] = {
        name: gr.Slider(low, high, start[name], step=step, label=label, elem_id=name)
        for name, label, low, high, step in sliders
    }
    with gr.Row():
        made["infer_method"] = gr.Radio(["ode", "sde"], value=start["infer_method"], label="Method (infer_method)")
        made["audio_format"] = gr.Dropdown(list(FORMATS), value=start["audio_format"], label="File format")
    with gr.Row():
        made["seed"] = gr.Number(label="First seed (empty: drawn)", precision=0, value=None, elem_id="seed")
        made["batch_size"] = gr.Slider(1, 8, 1, step=1, label="Covers, with seeds that count up")
    return made


def _results(results: gr.State, grid: gr.State) -> None:
    """Players with measures, one below the other or as a grid."""

    @gr.render(inputs=[results, grid])
    def show(shown: list[handlers.Shown], across: int | None) -> None:
        width = across or 1
        for begin in range(0, len(shown), width):
            with gr.Row():
                for cover in shown[begin : begin + width]:
                    with gr.Column(min_width=260, elem_classes="cell"):
                        _cover(cover, in_grid=across is not None)


def _cover(cover: handlers.Shown, in_grid: bool) -> None:
    if cover.error:
        gr.Markdown(f"**{cover.title}**: {cover.error}")
        return
    gr.Audio(cover.path, label=cover.title, interactive=False, buttons=["download"], elem_classes="player")
    if in_grid:
        gr.Markdown(words.few_measures(cover.row), elem_classes="measures")
    else:
        row = cover.row
        gr.Markdown(
            f"seed {row['seed']}, {row['cover_steps']} of {row['effective_inference_steps']} steps followed the "
            f"source\n\n{words.measures(row)}",
            elem_classes="measures",
        )


def _wire(
    counter: Callable[[], Counter],
    is_turbo: bool,
    presets: dict[str, Any],
    source: Any,
    preset: Any,
    fields: list[Any],
    axes: list[Any],
    compared: Any,
    said: Any,
    states: list[Any],
    buttons: dict[str, Any],
    command: Any,
    page: gr.Blocks,
) -> None:
    """What happens when."""
    Values = dict[str, Any]

    def named(values: Sequence[Any]) -> Values:
        return dict(zip(words.FIELDS, values, strict=True))

    async def compare(*values: Any) -> str:
        asked = named(values)
        try:
            params, config = words.request_of(asked | {"caption": asked["caption"] or "a caption"})
            return words.comparison(counter().look_at(params, config))
        except RestyleError as error:
            return f"**{error}**"

    def take_preset(name: str, *values: Any) -> list[Any]:
        chosen, now = presets.get(name), named(values)
        if chosen is not None:
            now |= {"caption": chosen.caption} | {k: v for k, v in chosen.cover.items() if k in now}
        return [now[field] for field in words.FIELDS]

    async def make(path: str | None, *values: Any) -> News:
        try:
            params, config = words.request_of(named(values))
            async for text, ids, shown in handlers.generate(counter(), path, [("", params)], config):
                yield text, ids, shown, None
        except RestyleError as error:
            yield f"**{error}**", [], [], None

    async def make_grid(
        path: str | None, across: str, down: str, *values: Any
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        try:
            chosen = words.grid_of(across, down, is_turbo)
            params, config = words.request_of(named(values) | {"batch_size": 1})
            seeded = handlers.one_seed(params)
            requests = handlers.grid_requests(seeded, chosen)
            async for text, ids, shown in handlers.generate(counter(), path, requests, config):
                yield text, ids, shown, len(chosen["audio_cover_strength"])
        except RestyleError as error:
            yield f"**{error}**", [], [], None

    async def cancel(ids: list[str]) -> str:
        return await handlers.cancel(counter(), ids)

    async def write(path: str | None, *values: Any) -> str:
        return await told(lambda: _command(counter(), path, named(values), None))

    async def write_grid(path: str | None, across: str, down: str, *values: Any) -> str:
        asked = named(values) | {"batch_size": 1}
        return await told(lambda: _command(counter(), path, asked, words.grid_of(across, down, is_turbo)))

    page.load(compare, fields, compared, **PRIVATE)
    for control in fields:
        control.change(compare, fields, compared, show_progress="hidden", trigger_mode="always_last", **PRIVATE)
    preset.input(take_preset, [preset, *fields], fields, show_progress="hidden", **PRIVATE)
    buttons["go"].click(make, [source, *fields], [said, *states], show_progress="hidden", **PRIVATE)
    buttons["grid"].click(make_grid, [source, *axes, *fields], [said, *states], show_progress="hidden", **PRIVATE)
    buttons["stop"].click(cancel, states[0], said, show_progress="hidden", **PRIVATE)
    buttons["write"].click(write, [source, *fields], command, **PRIVATE)
    buttons["write_grid"].click(write_grid, [source, *axes, *fields], command, **PRIVATE)


async def told(action: Callable[[], Awaitable[str]]) -> str:
    """What an action says, or why it cannot."""
    try:
        return await action()
    except RestyleError as error:
        return f"error: {error}"


async def _command(counter: Counter, path: str | None, asked: dict[str, Any], axes: Any) -> str:
    params, config = words.request_of(asked)
    return await handlers.batch_command(counter, path, params, config, axes)
