"""Gradio event handlers: connects the page's controls with the admission."""

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import gradio as gr

from acestep.errors import RestyleError
from pipeline.catalogue.presets import Preset
from pipeline.service.admission import Admission
from pipeline.service.page import handlers
from pipeline.service.page import text as words
from pipeline.service.page.layout import Controls, placed

PRIVATE: dict[str, Any] = {"api_visibility": "private"}  # the API is the service's own, not Gradio's
QUIET: dict[str, Any] = {"show_progress": "hidden"} | PRIVATE
# A number being typed into a slider may be out of range: Gradio's own check would fail before the handler runs,
# and the page would keep its old state.
AS_TYPED: dict[str, Any] = {"preprocess": False} | QUIET
# navigator.clipboard is not available to pages without TLS.
COPY = "() => { document.querySelector('#command textarea').select(); document.execCommand('copy'); }"
News = AsyncGenerator[tuple[str, list[str], list[handlers.PlayerEntry], int | None], None]


def connect_events(
    admission: Callable[[], Admission], is_turbo: bool, listed: Sequence[Preset], page: Controls, blocks: gr.Blocks
) -> None:
    """Connect the controls with the admission.

    Args:
        admission: called at each event.
        listed: presets to choose from.
    """
    presets = words.preset_names(listed)

    async def compare(*values: Any) -> tuple[str, str]:
        given = _named(values)
        try:
            params, config = words.request_of(given | {"caption": given["caption"] or "a caption"})
            return words.comparison(admission().look_at(params, config)), ""
        except RestyleError as error:
            return words.error_markdown(error), ""

    def take_preset(name: str, *values: Any) -> list[Any]:
        return placed(_named(values) | words.preset_values(presets.get(name)))

    async def make(before: list[str], path: str | None, *values: Any) -> News:
        try:
            await handlers.cancel(admission(), before)
            params, config = words.request_of(_named(values))
            async for text, ids, shown in handlers.generate(admission(), path, [("", params)], config):
                yield text, ids, shown, None
        except RestyleError as error:
            yield words.error_markdown(error), [], [], None

    async def make_grid(before: list[str], path: str | None, across: str, down: str, *values: Any) -> News:
        try:
            await handlers.cancel(admission(), before)
            axes = words.grid_of(across, down, is_turbo)
            params, config = words.request_of(_named(values) | {"batch_size": 1})
            requests = handlers.grid_requests(handlers.one_seed(params), axes)
            async for text, ids, shown in handlers.generate(admission(), path, requests, config):
                yield text, ids, shown, len(axes["audio_cover_strength"])
        except RestyleError as error:
            yield words.error_markdown(error), [], [], None

    async def cancel(ids: list[str]) -> str:
        return await handlers.cancel(admission(), ids)

    async def write(ids: list[str], path: str | None, *values: Any) -> str:
        try:
            params, config = words.request_of(_named(values))
            shown_seeds = await handlers.latest_seeds(admission(), ids)
            return await handlers.batch_command(admission(), path, params, config, None, shown_seeds)
        except RestyleError as error:
            return f"no command: {error}"

    async def write_grid(ids: list[str], path: str | None, across: str, down: str, *values: Any) -> str:
        try:
            params, config = words.request_of(_named(values) | {"batch_size": 1})
            axes = words.grid_of(across, down, is_turbo)
            shown_seeds = await handlers.latest_seeds(admission(), ids)
            return await handlers.batch_command(admission(), path, params, config, axes, shown_seeds)
        except RestyleError as error:
            return f"no command: {error}"

    fields = list(page.fields.values())
    axes = [page.strengths, page.guidances]
    news = [page.said, page.requests, page.results, page.across]
    blocks.load(compare, fields, [page.compared, page.command], **PRIVATE)
    for control in (*fields, *axes):
        # Clears the command, which was written for other settings.
        control.change(compare, fields, [page.compared, page.command], trigger_mode="always_last", **AS_TYPED)
    page.preset.input(take_preset, [page.preset, *fields], fields, **AS_TYPED)
    page.go.click(make, [page.requests, page.source, *fields], news, **QUIET)
    page.go_grid.click(make_grid, [page.requests, page.source, *axes, *fields], news, **QUIET)
    page.stop.click(cancel, page.requests, page.said, **QUIET)
    page.write.click(write, [page.requests, page.source, *fields], page.command, **PRIVATE)
    page.write_grid.click(write_grid, [page.requests, page.source, *axes, *fields], page.command, **PRIVATE)
    page.copy.click(None, js=COPY, **PRIVATE)


def _named(values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(words.FIELDS, values, strict=True))
