"""Mounts the Cover page in the service's application."""

import os

from fastapi import FastAPI, Response
from fastapi.responses import RedirectResponse
from starlette.middleware import Middleware

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # catalogues are private

import gradio as gr

from pipeline.service.api_keys import ApiKeys
from pipeline.service.config import ServiceSpec
from pipeline.service.page.events import connect_events
from pipeline.service.page.layout import build_layout
from pipeline.service.page.request_filter import filter_requests
from pipeline.service.page.visitor_files import KEPT_S, PAGE, SHARE, VisitorFiles
from pipeline.service.problem_details import ProblemError
from pipeline.service.scratch import scratch_folder
from pipeline.storage.store import open_store

PATH = "/cover"
SYSTEM_FONTS = (["system-ui", "sans-serif"], ["ui-monospace", "monospace"])
CSS = """
.measures table { font-size: .85em; display: block; overflow-x: auto; border: 0; }
.measures th, .measures td { word-break: normal; overflow-wrap: normal; }
.cell th { white-space: nowrap; }
#about-model { border-left: .3em solid #c77700; padding: .3em .8em; }
.status { min-height: 1.6em; }
footer { display: none !important; }
"""


def mount(app: FastAPI, spec: ServiceSpec, is_turbo: bool, keys: ApiKeys) -> FastAPI:
    """The application with the page at ``/cover``, and a redirect from ``/``.

    Args:
        keys: if there are any, the page asks for one as the password.
    """

    def knows(user: str, password: str) -> bool:
        try:
            return bool(keys.owner(password))
        except ProblemError:
            return False

    @app.get("/", include_in_schema=False)
    async def start() -> RedirectResponse:
        return RedirectResponse(f"{PATH}/")

    @app.get("/favicon.ico", include_in_schema=False)
    async def no_icon() -> Response:
        return Response(status_code=204)

    # Gradio's default folder for uploads is shared by all its applications and has no size limit.
    folder = scratch_folder(open_store(spec.output)) / PAGE
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    with gr.Blocks(title="Restyle: Cover", analytics_enabled=False, delete_cache=(3600, KEPT_S)) as page:
        # The admission is opened after the page is built, hence the lambda.
        connect_events(lambda: app.state.admission, is_turbo, spec.presets, build_layout(spec, is_turbo), page)

    def forget(names: set[str]) -> None:
        for known in page.temp_file_sets:  # Gradio keeps these names forever
            known.difference_update(names)

    files = VisitorFiles(folder, lambda: SHARE * app.state.admission.store.quota.max_bytes, forget)
    app.state.page_files = files
    page.queue(max_size=spec.limits.waiting, default_concurrency_limit=None)
    fonts, mono = SYSTEM_FONTS
    return gr.mount_gradio_app(
        app,
        page,
        PATH,
        auth=knows if keys else None,
        auth_message="Any name; the password is a key of this service." if keys else None,
        max_file_size=int(spec.limits.upload_mb * 1e6),
        app_kwargs={"middleware": [Middleware(filter_requests, files=files, keys=keys)]},
        show_error=False,  # errors that a visitor can act on are shown on the page
        run_history=False,
        enable_monitoring=False,
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
