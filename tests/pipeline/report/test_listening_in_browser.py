"""The listening page in a real browser: it plays, by mouse and by keyboard, and asks the network for nothing."""

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.listening_page import listening_page
from pipeline.report.track_picks import pick_tracks
from tests.pipeline.report.covers import cover, failed, judged, music, table

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run"
).split()
STRENGTHS, GUIDANCES = (0.1, 0.3, 0.5, 0.7, 0.9), (5.0, 7.0, 9.0, 11.0)
EVIL = "</script><img src=http://example.invalid/x.png onerror=boom()> \"'& 曲"
DESKTOP, PHONE = {"width": 1360, "height": 900}, {"width": 390, "height": 844}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; apt-get install chromium"),
]


def made(tracks: int, strengths: tuple[float, ...], guidances: tuple[float, ...]) -> bytes:
    """A page with 12 s of music per cover, one cover lost, one a copy and one failed."""
    rows = [cover(f"song_{t}", s, g, duration_s=14.0) for t in range(tracks) for s in strengths for g in guidances]
    rows[0] = failed(rows[0], EVIL)
    rows[1], rows[2] = judged(rows[1], "lost"), judged(rows[2], "copy")
    rows = [row | {"caption": EVIL} for row in rows]
    songs = [music(f"song {k}", 14.0) for k in range(4)]

    def read_source(row: dict[str, Any]) -> Any:
        return songs[0]

    def read_cover(row: dict[str, Any]) -> Any:
        return songs[1 + len(row["item_id"]) % 3].roll(int(4800 * row["guidance_scale"]), 1)

    found = table(rows)
    return listening_page("Folk songs as heavy metal", found, pick_tracks(found), read_source, read_cover, [EVIL])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "listen.html"
    path.write_bytes(made(2, STRENGTHS[::2], GUIDANCES[:2]))
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """An open page, and what it complained of and asked for."""

    def __init__(self, browser: Any, **context: Any):
        self.page = browser.new_page(**({"viewport": DESKTOP, "reduced_motion": "reduce"} | context))
        self.trouble: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.trouble.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url.split(":")[0]))

    def close(self) -> None:
        """Raises AssertionError where the page complained, or asked for more than itself."""
        self.page.close()
        assert self.trouble == []
        assert set(self.asked) <= {"file", "data", "blob", "about"}


@pytest.fixture
def page(browser: Any, file: Path) -> Iterator[Any]:
    visit = Visit(browser)
    visit.page.goto(file.as_uri())
    yield visit.page
    visit.close()


PLAYING = "side => players[side].readyState >= 3 && !players[side].paused && !players[side].muted"
AUDIBLE = "Object.entries(players).filter(([_, p]) => !p.paused && !p.muted).map(([side]) => side)"
# Place and text are read at once: between two calls of the driver, the second may be over.
SHOWN_AFTER = """moment => {
  const at = players.cover.currentTime;
  return at > moment && document.querySelector('.time').innerText === `0:0${Math.floor(at)} / 0:12`;
}"""


def play_all(frame: Any) -> int:
    """Press every play button, and see that what was pressed is what is heard, 12 s of it."""
    count = 0
    for kind, side in ((".source", "source"), ("td.cell", "cover")):
        for player in frame.locator(f"main {kind} .player").all():
            player.locator(".play").click()
            frame.wait_for_function(PLAYING, arg=side)
            assert frame.evaluate(AUDIBLE) == [side]
            assert frame.evaluate("side => players[side].duration", side) == pytest.approx(12, abs=0.03)
            assert frame.evaluate("heard().clip === clipOf(now.side)")
            assert "playing" in player.get_attribute("class")
            assert frame.locator("main .player.playing").count() == 1
            count += 1
    return count


def test_every_player_plays_and_one_at_a_time(page: Any) -> None:
    assert play_all(page.main_frame) == 2 + 11


def test_time_goes_on_and_a_second_press_stops_it(page: Any) -> None:
    button = page.locator("td.cell .play").first
    button.click()
    for moment in (0.3, 1):
        page.wait_for_function(SHOWN_AFTER, arg=moment)
    button.click()
    assert page.evaluate(AUDIBLE) == []
    button.click()
    page.locator("td.cell .amount").nth(5).click()  # a cell that is chosen while another plays
    page.wait_for_function(PLAYING, arg="cover")
    assert page.evaluate("players.cover.clip === coverOf(now.cell)")
    assert page.evaluate("players.cover.currentTime") > 1
    started = time.monotonic()
    page.locator("td.cell .wave").first.click(position={"x": 1, "y": 5})
    page.wait_for_function(PLAYING, arg="cover")
    # from about 0.1 s on, for as long as this took
    assert page.evaluate("players.cover.currentTime") < time.monotonic() - started + 0.3


FRAMED = """html => {
  const frame = document.querySelector('iframe');
  Object.assign(frame.style, { width: '1300px', height: '850px' });
  frame.src = URL.createObjectURL(new Blob([html], { type: 'text/html' }));
}"""


def test_it_plays_in_a_sandboxed_frame_as_mlflow_shows_it(browser: Any, file: Path, tmp_path: Path) -> None:
    visit = Visit(browser)
    host = tmp_path / "host.html"
    host.write_text('<!doctype html><link rel="icon" href="data:,"><iframe sandbox="allow-scripts"></iframe>')
    visit.page.goto(host.as_uri())
    visit.page.evaluate(FRAMED, file.read_text("utf-8"))
    frame = visit.page.locator("iframe").element_handle().content_frame()
    frame.wait_for_selector("td.cell")
    assert frame.evaluate("window.origin") == "null"
    assert play_all(frame) == 13
    visit.close()


def test_the_keyboard_moves_plays_and_switches_at_the_same_place(page: Any) -> None:
    names = "now.cell && coverOf(now.cell).setting"
    page.locator("section", has_text="song_1").locator("td.cell").first.focus()
    for key, name in (
        ("ArrowRight", "strength 0.50, guidance 5"),
        ("ArrowDown", "strength 0.50, guidance 7"),
        ("ArrowLeft", "strength 0.10, guidance 7"),
        ("ArrowLeft", "strength 0.10, guidance 7"),
        ("ArrowUp", "strength 0.10, guidance 5"),
    ):
        page.keyboard.press(key)
        assert page.evaluate(names) == name
        assert page.evaluate("document.activeElement === now.cell.element")
    page.keyboard.press("Space")
    page.wait_for_function("() => players.cover.currentTime > 0.6")
    page.keyboard.press("s")
    assert page.evaluate(AUDIBLE) == ["source"]
    assert page.evaluate("players.source.currentTime - players.cover.currentTime") == pytest.approx(0, abs=0.3)
    assert page.evaluate("players.source.currentTime") > 0.5
    page.keyboard.press("S")
    assert page.evaluate(AUDIBLE) == ["cover"]
    before = page.evaluate("players.cover.currentTime")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(PLAYING, arg="cover")
    assert page.evaluate(names) == "strength 0.50, guidance 5"
    assert page.evaluate("players.cover.currentTime") >= before
    page.keyboard.press("Space")
    assert page.evaluate(AUDIBLE) == []
    page.keyboard.press("s")
    assert page.locator("#deck [aria-pressed=true]").inner_text() == "Source"
    page.keyboard.press("Space")
    page.wait_for_function(PLAYING, arg="source")


def test_a_cell_that_failed_says_why_and_markup_is_text(page: Any) -> None:
    cell = page.locator("td.cell", has=page.locator(".badge.failed"))
    assert EVIL in cell.inner_text()
    assert cell.locator(".play").count() == 0
    assert page.locator(".caption").first.inner_text() == EVIL
    assert page.locator("img").count() == 0
    cell.click()
    page.keyboard.press("Space")
    assert page.evaluate(AUDIBLE) == []
    assert page.locator(".badge.lost").count() == 2  # one is the legend's


RANKS = """data.tracks[0].cells.filter((cell) => cell.rank).map((cell) => [
  cell.rank, cell.element.querySelector('.amount').innerText, cell.element.classList.contains('best')])"""
LOOKS = """data.tracks[0].cells.filter((cell) => cell !== now.cell).map(({ element }) => {
  const { backgroundColor, borderTopWidth, borderTopColor } = getComputedStyle(element);
  return [backgroundColor, borderTopWidth, borderTopColor].join();
})"""
COLOURS = """[...document.querySelector('section').querySelectorAll('td.cell')].map(
  (cell) => getComputedStyle(cell).backgroundColor)"""


def test_ranks_follow_the_chosen_measure_as_it_is_printed(page: Any) -> None:
    for label in ("Score", "Melody", "Timbre distance"):
        page.locator("#measure").select_option(label=label)
        found = [(rank, float(shown), best) for rank, shown, best in page.evaluate(RANKS)]
        amounts = sorted((amount for _, amount, _ in found), reverse=True)
        for rank, amount, best in found:
            assert rank == amounts.index(amount) + 1
            assert best == (rank == 1 and amounts.count(amount) == 1)
    page.locator("#measure").select_option(label="Loudness")  # only describes
    assert page.evaluate(RANKS) == []
    assert len(set(page.evaluate(COLOURS))) > 1


def opened(browser: Any, path: Path, rows: list[dict[str, Any]], **context: Any) -> Visit:
    """A page of rows of 3 s."""
    song, found = music("song", 3.0), table([row | {"duration_s": 3.0} for row in rows])
    path.write_bytes(listening_page("Covers", found, pick_tracks(found), lambda row: song, lambda row: song))
    visit = Visit(browser, **context)
    visit.page.goto(path.as_uri())
    return visit


CELLS = """[...document.querySelectorAll('td.cell')].map((cell) => ({
  name: cell.title.split('\\n')[0], colour: getComputedStyle(cell).backgroundColor, text: cell.innerText}))"""
SCORES = (0.9, 0.9004, 0.5, 0.5, 0.9, 0.9, 0.9)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_lost_failed_or_not_judged_is_grey_and_has_no_rank(
    browser: Any, tmp_path: Path, scheme: str
) -> None:
    rows = [cover("song", 0.1 * k, 7.0) | {"objective/score": score} for k, score in enumerate(SCORES)]
    rows[3:] = [judged(rows[3], "lost"), judged(rows[4], "copy"), failed(rows[5]), judged(rows[6], "")]
    rows[6] |= {"cover/outcome": None, "objective/score": 0.9}
    visit = opened(browser, tmp_path / "grey.html", rows, color_scheme=scheme)
    cells = {cell["name"].partition(",")[0]: cell for cell in visit.page.evaluate(CELLS)}
    judged_cells, others = (
        [cells[f"strength 0.{k}0"] for k in range(3)],
        [cells[f"strength 0.{k}0"] for k in range(3, 7)],
    )
    (grey,) = {cell["colour"] for cell in others}
    assert all("no rank" in cell["name"] for cell in others)
    assert [cell["text"].split()[0] for cell in judged_cells] == ["1=", "1=", "3"]
    assert "shares rank 1 of 3" in judged_cells[0]["name"]
    assert "best" not in "".join(cell["text"] for cell in cells.values())
    assert [judged_cells[0]["colour"] == cell["colour"] for cell in judged_cells] == [True, True, False]
    assert grey not in {cell["colour"] for cell in judged_cells}
    legend = visit.page.locator("#scale").inner_text().split("\n")
    assert legend == ["0.00", "1.00", "no rank: copy, lost, failed, not judged"]
    assert visit.page.evaluate("getComputedStyle(document.querySelector('.no-rank i')).backgroundColor") == grey
    visit.close()


def test_a_value_has_one_colour_on_every_track_and_page(browser: Any, tmp_path: Path) -> None:
    seen: dict[float, set[str]] = {}
    for number, scores in enumerate([(0.2, 0.4, 0.8), (0.4, 0.8, 0.95)]):
        rows = [
            cover(track, strength, 7.0) | {"objective/score": score}
            for track in ("a", "b")
            for strength, score in zip((0.1, 0.2, 0.3), scores if track == "a" else scores[::-1], strict=True)
        ]
        visit = opened(browser, tmp_path / f"{number}.html", rows)
        for cell in visit.page.evaluate(CELLS):
            score = float(cell["name"].partition("Score ")[2].partition(",")[0])
            seen.setdefault(score, set()).add(cell["colour"])
        visit.close()
    assert {score: len(colours) for score, colours in seen.items()} == dict.fromkeys((0.2, 0.4, 0.8, 0.95), 1)
    assert len(set.union(*seen.values())) == 4


def test_values_beyond_the_scale_are_said_in_the_legend(browser: Any, tmp_path: Path) -> None:
    rows = [cover("song", 0.1 * k, 7.0) | {"timbre/mfcc_distance": 30.0 * k} for k in range(3)]
    visit = opened(browser, tmp_path / "beyond.html", rows)
    visit.page.locator("#measure").select_option(label="Timbre distance")
    assert visit.page.locator("#scale").inner_text().split("\n")[:2] == ["0 dB", "40 dB or more"]
    visit.close()


BOXES = """() => {
  const box = (element) => element.getBoundingClientRect();
  const text = (element) => {
    const range = document.createRange();
    range.selectNodeContents(element);
    return range.getBoundingClientRect().width;
  };
  const all = (what) => [...document.querySelectorAll(what)];
  return {
    left: box(document.querySelector('section')).left,
    labels: all('th.down').map((th) => [box(th).left, box(th).width - text(th)]),
    cells: all('td.cell').map((td) => [box(td).left, box(td).right]),
    spilt: all('td.cell, th').filter((one) => one.scrollWidth > one.clientWidth).length,
  };
}"""


@pytest.mark.parametrize("columns", [1, 2, 7])
def test_the_grid_stands_at_the_left_and_two_columns_fit_a_phone(
    browser: Any, tmp_path: Path, columns: int
) -> None:
    rows = [cover("song", 0.1 * k, g) for k in range(columns) for g in (5.0, 9.5)]
    rows[0] = judged(rows[0], "lost")
    visit = opened(browser, tmp_path / "left.html", rows)
    for width in (390, 820, 1280, 2560):
        visit.page.set_viewport_size({"width": width, "height": 844})
        assert visit.page.evaluate("document.documentElement.scrollWidth") == width
        found = visit.page.evaluate(BOXES)
        assert found["spilt"] == 0
        assert len(found["labels"]) == (2 if columns > 1 else 0)
        assert all(left - found["left"] < 12 for left, _ in found["labels"])
        assert min((more_than_text for _, more_than_text in found["labels"]), default=0) < 20
        lefts = sorted({left for left, _ in found["cells"]})
        assert lefts[0] - found["left"] < 150
        assert all(right <= width for left, right in found["cells"] if left in lefts[:2])
    visit.close()


def test_blind_hides_what_a_cover_is_and_keeps_the_choice(page: Any) -> None:
    page.locator("td.cell .play").nth(3).click()
    chosen = page.evaluate("coverOf(now.cell).setting")
    page.locator("#blind").check()
    shown = page.locator("body").inner_text()
    titles = page.evaluate("[...document.querySelectorAll('[title]')].map((one) => one.title)")
    assert not re.findall(r"s0\.\d\d|strength 0|guidance \d", "".join([shown, *titles]))
    assert "kept" not in page.locator("main").inner_text()
    assert "rank" not in page.locator("#deck").inner_text()
    letters = page.locator("section").first.locator(".letter").all_inner_texts()
    assert letters == list("ABCDEF")
    assert len(set(page.evaluate(LOOKS))) == 1
    page.locator("#blind").uncheck()
    assert page.evaluate("coverOf(now.cell).setting") == chosen
    assert chosen in page.locator("#deck").inner_text()


def test_covers_of_one_cell_are_chosen_from_a_list(browser: Any, tmp_path: Path) -> None:
    rows = [cover("song", s, g, seed, duration_s=3.0) for s in (0.2, 0.8) for g in (5.0, 9.0) for seed in (4, 5)]
    song = music("song", 3.0)
    found = table(rows)
    path = tmp_path / "seeds.html"
    path.write_bytes(listening_page("Seeds", found, pick_tracks(found), lambda row: song, lambda row: song))
    visit = Visit(browser)
    visit.page.goto(path.as_uri())
    for cell in visit.page.locator("td.cell").all():
        first, second = cell.locator("option").all_inner_texts()
        assert {first, second} == {"seed 4", "seed 5"}
        score = float(cell.locator(".amount").inner_text())
        cell.locator("select").select_option(label=second)
        assert float(cell.locator(".amount").inner_text()) <= score
    visit.close()


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const luminance = (layers) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const layer of layers) {
      canvas.fillStyle = layer;
      canvas.fillRect(0, 0, 1, 1);
    }
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data]
      .map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const layers = (element) => (element
    ? [...layers(element.parentElement), getComputedStyle(element).backgroundColor] : []);
  const hasText = (element) => element.checkVisibility() && !element.matches('script, style, option')
    && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  return [...document.querySelectorAll('body *')].filter(hasText).map((element) => {
    const ground = layers(element);
    const pair = [luminance([...ground, getComputedStyle(element).color]), luminance(ground)];
    return [(Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05), element.outerHTML.slice(0, 80)];
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read_on_its_ground(browser: Any, file: Path, scheme: str) -> None:
    """WCAG 2.1: a contrast of at least 4.5."""
    visit = Visit(browser, color_scheme=scheme)
    visit.page.goto(file.as_uri())
    visit.page.locator("td.cell .play").first.click()
    visit.page.locator(".legend summary").click()
    contrasts = visit.page.evaluate(CONTRAST)
    assert len(contrasts) > 100
    assert [entry for entry in contrasts if entry[0] < 4.5] == []
    dark = visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 24)"
    assert dark == (scheme == "dark")
    visit.close()


def test_a_phone_shows_all_of_it(browser: Any, file: Path) -> None:
    visit = Visit(browser, viewport=PHONE, has_touch=True, is_mobile=True)
    visit.page.goto(file.as_uri())
    visit.page.locator("td.cell .play").first.tap()
    visit.page.wait_for_function(PLAYING, arg="cover")
    assert visit.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    deck = visit.page.locator("#deck").bounding_box()
    assert deck["y"] + deck["height"] <= PHONE["height"] + 1
    assert deck["height"] < 0.4 * PHONE["height"]
    visit.close()


@pytest.mark.slow
def test_six_tracks_by_twenty_settings_play_and_stay_under_ten_megabytes(browser: Any, tmp_path: Path) -> None:
    content = made(6, STRENGTHS, GUIDANCES)
    path = tmp_path / "listen.html"
    path.write_bytes(content)
    assert 7e6 < len(content) < 10e6
    visit = Visit(browser)
    visit.page.goto(path.as_uri())
    assert play_all(visit.page.main_frame) == 6 + 119
    visit.close()
