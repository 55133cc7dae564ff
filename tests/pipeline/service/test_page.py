"""The Cover page: what it says, what it lets in, and all of it in a real browser."""

import asyncio
import hashlib
import itertools
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
import soundfile

from acestep.checkpoints.demo import ABOUT
from acestep.errors import RequestError
from pipeline.planning.items import ModelFacts
from pipeline.results.reader import read_results
from pipeline.service.config import Limits, ServiceSpec
from pipeline.service.generation_request import check_parameters
from pipeline.service.page import text as words
from pipeline.service.page.handlers import (
    PlayerEntry,
    as_many,
    batch_command,
    generate,
    grid_requests,
    latest_seeds,
    one_seed,
)
from pipeline.service.page.layout import build_layout, placed
from pipeline.storage.store import open_store
from tests.conftest import tone
from tests.jobs.test_serve import served as launched
from tests.pipeline.service.conftest import KEYS, Served, serving

ROOT = Path(__file__).parents[3]
CHROMIUM = shutil.which("chromium")
SECONDS = 6.0
BASE, TURBO = (
    ModelFacts(name, "f00d", turbo, "float32") for name, turbo in (("demo", False), ("demo_turbo", True))
)


def comparison(model: ModelFacts, **changes: Any) -> str:
    params, config = words.request_of(words.defaults(model.is_turbo) | {"caption": "jazz"} | changes)
    return words.comparison(check_parameters(params, config, model, Limits()))


def test_requested_and_effective_stand_side_by_side() -> None:
    said = comparison(BASE, audio_cover_strength=0.4, inference_steps=8, cover_noise_strength=0.5)
    assert "| steps | 8 | " in said
    assert "| guidance | 9 | 9 (apg) |" in said
    assert "steps follow the source |" in said
    assert "| start | 0.5 | the noised source at time 0." in said


def test_a_preset_that_sings_without_lyrics_says_so_on_the_page() -> None:
    assert "no words to sing" in comparison(BASE, caption="heavy metal, powerful vocals")
    assert "no words to sing" not in comparison(BASE, caption="heavy metal, powerful vocals", lyrics="la la")
    assert "no words to sing" not in comparison(BASE, caption="heavy metal, no vocals")


def test_what_a_turbo_model_ignores_is_said() -> None:
    said = comparison(TURBO)
    assert "| steps | 8 | 8 |" in said
    assert "| guidance | 9 | none |" in said
    assert "guidance" in said.rpartition("|\n")[2]
    assert "shift 1:" not in said
    assert words.escape_markdown("shift 1: turbo models are made for shift 3") in comparison(TURBO, shift=1.0)


def test_controls_begin_at_values_that_run_and_empty_ones_are_open() -> None:
    for model in (BASE, TURBO):
        params, config = words.request_of(words.defaults(model.is_turbo) | {"bpm": None, "lyrics": None})
        assert (params.seed, params.bpm, params.lyrics, config.batch_size) == (-1, None, "", 1)
        assert "requested" in comparison(model)
    params, _ = words.request_of(words.defaults(False) | {"bpm": " 108 ", "seed": "7"})
    assert (params.bpm, params.seed) == (108, 7)


@pytest.mark.parametrize("text", ["x", "1.5", "nan", "inf", "1e999"])
def test_a_seed_that_is_none_is_named(text: str) -> None:
    with pytest.raises(RequestError, match=f"seed '{text}' is not a whole number"):
        words.request_of(words.defaults(False) | {"seed": text})


@pytest.mark.parametrize("name", [*words.SLIDERS, "batch_size"])
def test_a_number_that_is_missing_or_out_of_range_is_named(name: str) -> None:
    for typed in (None, 1e9):
        with pytest.raises(RequestError, match=rf"^{name} "):
            comparison(BASE, **{name: typed})


def test_a_grid_is_read_strength_across_and_guidance_down() -> None:
    axes = words.grid_of("0.3, .6,", "3,9", is_turbo=False)
    params, _ = words.request_of(words.defaults(False) | {"caption": "jazz"})
    seeded = one_seed(params)
    cells = grid_requests(seeded, axes)
    assert [(p.audio_cover_strength, p.guidance_scale) for _, p in cells] == [
        (0.3, 3),
        (0.6, 3),
        (0.3, 9),
        (0.6, 9),
    ]
    assert [title for title, _ in cells][:2] == ["strength 0.3, guidance 3", "strength 0.6, guidance 3"]
    assert {p.seed for _, p in cells} == {seeded.seed}
    assert seeded.seed >= 0
    one_row = grid_requests(seeded, words.grid_of("0.3,0.6", "whatever", is_turbo=True))
    assert [title for title, _ in one_row] == ["strength 0.3", "strength 0.6"]


@pytest.mark.parametrize(
    ("strengths", "guidances", "said"),
    [
        ("0.3, x", "3", "audio_cover_strength 'x' is not a number"),
        ("1.3", "3", "audio_cover_strength 1.3 is out of range"),
        ("0.3", "", "guidance_scale '' cannot be read"),
        ("0.3, 0.30", "3", "audio_cover_strength '0.3, 0.30' cannot be read"),
        ("0.1,0.2,0.3,0.4", "3,6,9", "12 covers are more than the 9 of a page; copy it as a batch config"),
    ],
)
def test_a_wrong_grid_is_named(strengths: str, guidances: str, said: str) -> None:
    with pytest.raises(RequestError) as error:
        words.grid_of(strengths, guidances, is_turbo=False)
    assert said in str(error.value)


def test_words_of_others_are_shown_as_they_are() -> None:
    said = words.error_markdown(RequestError("invalid_value", "caption '<img src=x> **b** [a](http://x)'"))
    assert "\\<img src=x\\> \\*\\*b\\*\\* \\[a\\]\\(http" in said


def test_a_measure_that_could_not_be_taken_is_a_dash() -> None:
    row = {"cover_steps": 1, "effective_inference_steps": 4, "rhythm/onset_corr": 0.126, "audio/lufs": None}
    assert words.measures(row).splitlines()[-1] == "| - | - | 0.13 | - | - | - |"
    assert words.measures(row).startswith("1 of 4 steps followed the source")


@pytest.fixture(scope="module")
def page(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(music, tmp_path_factory.mktemp("paged"), Limits(upload_mb=1.0), page=True) as one:
        yield one


def event(page: Served, target: str, *before: Any, **changes: Any) -> httpx.Response:
    """Send the event of a button, as the page would."""
    config = httpx.get(f"{page.address}/cover/config").json()
    button = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == target)
    (number,) = (d["id"] for d in config["dependencies"] if [button, "click"] in d["targets"])
    values = words.defaults(False) | {"caption": "jazz", "inference_steps": 1} | changes
    body = {"fn_index": number, "data": [*before, *values.values()], "session_hash": "visitor"}
    return httpx.post(f"{page.address}/cover/gradio_api/queue/join", json=body)


def test_the_page_takes_no_file_that_was_not_sent_to_it(page: Served) -> None:
    """Gradio by itself copies any path of the machine, and any address, into what it serves."""
    for path in (str(page.music / "country_song.wav"), "/etc/passwd", "http://127.0.0.1:1/a.wav", "a\0b", 3):
        sent = {"path": path, "meta": {"_type": "gradio.FileData"}}
        for reply in (
            event(page, "write-command", None, sent),
            event(page, "write-command", None, None, caption=sent),
        ):
            assert reply.status_code == 422
            assert reply.json()["error"]["kind"] == "not_sent"
    half = b'{"data": [{"path": "\\ud800"}]}'  # of a surrogate pair, which no name of a file can hold
    reply = httpx.post(f"{page.address}/cover/gradio_api/queue/join", content=half)
    assert (reply.status_code, reply.json()["error"]["kind"]) == (422, "not_sent")
    assert not list(page.output.glob("batches/*"))


@pytest.mark.parametrize(
    "path",
    [
        "file=/etc/passwd",
        "file=http://127.0.0.1:1/",
        "file=/tmp/gradio/../../etc/passwd",
        "proxy=http://127.0.0.1:1/",
        "runs",
        "run-history/buckets",
        "vibe-code/",
        "openapi.json",
    ],
)
def test_the_page_relays_nothing(page: Served, path: str) -> None:
    reply = httpx.get(f"{page.address}/cover/gradio_api/{path}")
    assert reply.status_code == 404
    assert reply.json()["error"]["kind"] == "unknown_address"


def test_the_page_has_no_api_of_its_own_and_leaves_the_services_alone(page: Served) -> None:
    info = httpx.get(f"{page.address}/cover/gradio_api/info").json()
    assert info == {"named_endpoints": {}, "unnamed_endpoints": {}}
    assert httpx.post(f"{page.address}/cover/gradio_api/run/make", json={"data": []}).status_code == 404
    assert httpx.get(f"{page.address}/", follow_redirects=True).url.path == "/cover/"
    assert "/cover" not in httpx.get(f"{page.address}/openapi.json").text
    assert httpx.get(f"{page.address}/health").json()["status"] == "ok"
    for missing in ("/v1/nothing", "/nothing"):
        assert httpx.get(f"{page.address}{missing}").json()["error"]["kind"] == "unknown_address"


def test_uploads_are_limited(page: Served) -> None:
    upload = f"{page.address}/cover/gradio_api/upload"
    assert httpx.post(upload, files={"files": ("a.wav", b"0" * 1_100_000)}).status_code == 413
    too_long = event(page, "write-command", None, None, lyrics="a" * 1_100_000)
    assert (too_long.status_code, too_long.json()["error"]["kind"]) == (413, "too_large")


def test_a_service_with_keys_asks_for_one(music: Path, tmp_path: Path) -> None:
    with (
        serving(music, tmp_path, Limits(), KEYS, page=True) as closed,
        httpx.Client(base_url=f"{closed.address}/cover") as visitor,
    ):
        for door in ("config", "gradio_api/info"):
            assert visitor.get(f"/{door}").status_code == 401
        assert visitor.post("/gradio_api/upload", files={"files": b"x"}).status_code == 401
        wrong = visitor.post("/login", data={"username": "me", "password": f"{KEYS[0]}x"})
        assert wrong.status_code == 400
        assert visitor.post("/login", data={"username": "me", "password": KEYS[1]}).status_code == 200
        assert visitor.get("/config").status_code == 200


def test_what_a_visitor_leaves_behind_is_not_made(page: Served, eventually: Callable[..., None]) -> None:
    params, config = words.request_of(words.defaults(False) | {"caption": "jazz", "inference_steps": 1000})

    async def leave_early() -> list[str]:
        news = generate(page.admission, str(page.music / "country_song.wav"), [("", params)], config)
        async with aclosing(news):
            async for text, ids, shown in news:
                assert "0 of 1 covers done" in text
                assert shown == []
                return ids
        return []

    (left,) = asyncio.run_coroutine_threadsafe(leave_early(), page.loop).result(30)
    eventually(lambda: page.admission.scheduler.busy == 0)
    assert page.admission.scheduler.generations[left].status == "cancelled"


def made(page: Served, song: str, **changes: Any) -> tuple[list[str], list[PlayerEntry]]:
    """What a visitor gets to hear: ids of the orders, and the source with its covers."""
    params, config = words.request_of(words.defaults(False) | {"caption": "jazz", "inference_steps": 2} | changes)

    async def follow() -> tuple[list[str], list[PlayerEntry]]:
        async for _, ids, shown in generate(page.admission, str(page.music / song), [("", params)], config):
            if shown:
                return ids, shown
        return [], []

    return asyncio.run_coroutine_threadsafe(follow(), page.loop).result(60)


@pytest.mark.parametrize("covers", [1, 2, 4])
def test_a_command_carries_the_seeds_that_were_heard(page: Served, covers: int) -> None:
    ids, (_, *heard) = made(page, "country_song.wav", batch_size=2)
    seeds = [one.row["seed"] for one in heard]
    asked = words.defaults(False) | {"caption": "jazz", "inference_steps": 2, "batch_size": covers}

    async def command(seed: str) -> str:
        params, config = words.request_of(asked | {"seed": seed})
        known = await latest_seeds(page.admission, ids)
        return await batch_command(
            page.admission, str(page.music / "country_song.wav"), params, config, None, known
        )

    def seeds_of(seed: str) -> list[int]:
        line = shlex.split(asyncio.run_coroutine_threadsafe(command(seed), page.loop).result(30))
        (said,) = (word for word in line if word.startswith(("cover.seed=", "grid.seed=")))
        return [int(number) for number in said.partition("=")[2].strip("[]").split(",")]

    assert seeds_of("") == as_many(seeds, covers)
    assert seeds_of("") == seeds_of("")
    # A seed that stands in its field is the one that is asked for.
    assert seeds_of("5") == list(range(5, 5 + covers))


def test_seeds_that_were_not_heard_follow_those_that_were() -> None:
    assert as_many([9, 2, 3], 2) == [9, 2]
    assert as_many([9, 2, 3], 5) == [9, 2, 3, 4, 5]
    assert as_many([1, 2**32 - 1], 4) == [1, 2**32 - 1, 0, 2]


def test_the_controls_of_a_cover_ask_for_the_cover(page: Served) -> None:
    _, (_, *heard) = made(
        page, "country_song.wav", batch_size=2, bpm="90", audio_format="mp3", audio_cover_strength=0.333
    )
    _, (_, again) = made(page, "country_song.wav", **heard[1].controls)
    assert again.row["item_id"] == heard[1].row["item_id"]
    assert [*heard[1].controls] == [*words.FIELDS]


def test_a_control_reaches_whatever_a_grid_or_a_preset_set() -> None:
    values = words.defaults(False) | {"guidance_scale": 20.0, "shift": 0.5}
    held = dict(zip(values, placed(values), strict=True))
    assert held["caption"] == ""
    assert held["audio_cover_strength"] == 0.5
    assert (held["guidance_scale"]["maximum"], held["guidance_scale"]["minimum"]) == (20, 1)
    assert (held["shift"]["maximum"], held["shift"]["minimum"]) == (5, 0.5)


def test_what_a_cover_tells_of_its_source_is_said_with_it(page: Served) -> None:
    soundfile.write(page.music / "silence.wav", [[0.0, 0.0]] * 48_000 * 6, 48_000)
    _, (_, *heard) = made(page, "silence.wav", batch_size=2)
    shared = words.shared_notes([one.row for one in heard])
    (silent,) = (note for note in shared if note.startswith("the source is silent"))
    assert words.escape_markdown(silent) in words.note_list(shared)
    rows = [{"notes": ["a", "b"]}, {"notes": ["c", "b"]}]
    assert words.shared_notes(rows) == ["b"]
    assert words.shared_notes([]) == []


@pytest.mark.parametrize(("model", "told"), [("demo", True), ("demo_turbo", True), ("turbo", False)])
def test_a_built_in_model_says_what_it_is(model: str, told: bool) -> None:
    with gr.Blocks() as blocks:
        build_layout(ServiceSpec("out", model=model), is_turbo="turbo" in model)
    banner = [block for block in blocks.blocks.values() if getattr(block, "elem_id", None) == "about-model"]
    assert bool(banner) is told
    assert all(words.escape_markdown(ABOUT) == block.value for block in banner)


class Visit:
    """An open page, and what it complained of and asked other hosts for."""

    def __init__(self, browser: Any, address: str):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        context.set_default_timeout(120_000)
        self.page, self.address = context.new_page(), address
        self.trouble: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", lambda said: self.trouble.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("request", lambda request: self.asked(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("#compared table")

    def asked(self, url: str) -> None:
        if not url.startswith((self.address, "data:", "blob:")):
            self.elsewhere.append(url)

    def number(self, name: str, value: str) -> None:
        """Set a slider by its number."""
        field = self.page.locator(f"#{name} input[type=number]")
        field.fill(value)
        field.press("Tab")

    def press(self, name: str) -> None:
        """A button, by keyboard."""
        self.page.locator(f"#{name}").press("Enter")

    def until_said(self, text: str) -> None:
        self.page.wait_for_function("t => document.querySelector('#status').innerText.includes(t)", arg=text)

    def covers(self, count: int) -> list[str]:
        """Digests of the files that the players offer, the source's first."""
        self.page.wait_for_function(
            "n => document.querySelectorAll('.player a[download]').length == n", arg=count + 1
        )
        links = self.page.locator(".player a[download]").evaluate_all("links => links.map(link => link.href)")
        return [hashlib.sha256(httpx.get(link).content).hexdigest() for link in links]

    def command(self, button: str, holds: str) -> str:
        """What the copy button puts into the clipboard."""
        self.press(button)
        self.page.wait_for_function(
            "t => document.querySelector('#command textarea').value.includes(t)", arg=holds
        )
        self.press("copy")
        return str(self.page.evaluate("navigator.clipboard.readText()"))


NAMELESS = """
[...document.querySelectorAll("input, textarea, button")]
    .filter(e => e.checkVisibility() && !e.labels?.length && !e.ariaLabel && !e.title && !e.textContent.trim())
    .map(e => e.outerHTML.slice(0, 200))
"""


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; apt-get install chromium")
def test_a_visitor_finds_a_setting_and_takes_it_to_the_catalogue(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    soundfile.write(tmp_path / "song.wav", tone(SECONDS), 48_000)
    start = "python -m jobs.serve model=demo"
    with (
        launched(start, output=str(tmp_path / "out"), **{"cluster.workers": "1"}) as (address, _),
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as browser,
    ):
        visit = Visit(browser, address)
        page = visit.page
        visit.press("generate")
        visit.until_said("upload a track first")
        page.set_input_files("#source input[type=file]", tmp_path / "song.wav")
        page.wait_for_selector("#source #waveform")
        page.locator("#preset input").click()
        page.get_by_role("option", name="country \N{RIGHTWARDS ARROW} heavy metal").click()
        page.wait_for_function("document.querySelector('#caption textarea').value.includes('double bass drums')")
        assert page.locator("#audio_cover_strength input[type=number]").input_value() == "0.4"

        # What is wrong while it is typed is said, and gone when it is right.
        page.locator("#guidance_scale input[type=number]").fill("777")
        page.wait_for_function("document.querySelector('#compared').innerText.includes('guidance_scale 777')")
        visit.number("guidance_scale", "9")
        page.wait_for_selector("#compared table")

        # Cancelled in mid-generation: what is left of eight covers is not made.
        visit.number("inference_steps", "100")
        visit.number("batch_size", "8")
        visit.press("generate")
        visit.until_said("of 8 covers done")
        visit.press("cancel")
        visit.until_said("cancelled: ")
        assert "8 of 8" not in page.locator("#status").inner_text()

        visit.number("batch_size", "1")
        visit.number("inference_steps", "4")
        page.wait_for_function("document.querySelector('#compared').innerText.includes('1 of 4 steps follow')")
        visit.press("generate")
        visit.until_said("done: 1 of 1")
        _, cover = visit.covers(1)
        page.wait_for_function(
            "[...document.querySelectorAll('.player #duration')].map(e => e.innerText).join() == '0:06,0:06'"
        )
        page.locator(".player").nth(1).get_by_role("button", name="Play", exact=True).click()
        page.wait_for_function("document.querySelectorAll('.player #time')[1].innerText != '0:00'")
        seed = int(page.locator(".player").nth(1).inner_text().partition("seed ")[2].split()[0])
        single = visit.command("write-command", "cover.seed=")
        page.locator(".use").press("Enter")
        page.wait_for_function("s => document.querySelector('#seed textarea, #seed input').value == s", arg=seed)
        page.wait_for_function("document.querySelector('#command textarea').value == ''")
        single_again = visit.command("write-command", "cover.seed=")

        page.locator("#grid button").first.click()
        assert page.locator("#command textarea").input_value() == single_again
        page.locator("#strengths textarea, #strengths input").fill("0.4, 0.8")
        page.locator("#guidances textarea, #guidances input").fill("3, 9.0")
        page.wait_for_function("document.querySelector('#command textarea').value == ''")
        visit.press("generate-grid")
        visit.until_said("done: 4 of 4")
        _, *cells = visit.covers(4)
        assert cells[2] == cover
        page.locator("#seed textarea, #seed input").fill("")
        grid = visit.command("write-grid-command", "grid.guidance_scale")

        # The settings of a cell, back in the controls, make the cell again.
        visit.number("inference_steps", "3")
        page.locator("#caption textarea").fill("something else")
        page.locator(".use").nth(1).press("Enter")
        page.get_by_text("The controls hold the settings of: strength 0.8, guidance 3").wait_for()
        page.wait_for_function("document.querySelector('#compared').innerText.includes('3 of 4 steps follow')")
        visit.press("generate")
        visit.until_said("done: 1 of 1")
        assert visit.covers(1)[1] == cells[1]
        assert page.locator("#about-model").is_visible()

        assert page.evaluate(NAMELESS) == []
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert visit.trouble == []
        assert visit.elsewhere == []

    subprocess.run(shlex.split(grid), cwd=ROOT, check=True, timeout=120, capture_output=True)
    rows = read_results(open_store(output_of(grid))).to_pylist()
    made = {(row["audio_cover_strength"], row["guidance_scale"]): row["audio_sha256"] for row in rows}
    assert [made[strength, guidance] for guidance, strength in itertools.product((3, 9), (0.4, 0.8))] == cells
    assert {row["seed"] for row in rows} == {seed}
    for command in (single, single_again):
        assert {"cover.inference_steps=4", f"cover.seed={seed}"} <= set(shlex.split(command))


def output_of(command: str) -> str:
    return next(word for word in shlex.split(command) if word.startswith("output=")).removeprefix("output=")
