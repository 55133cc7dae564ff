"""What a person sees: a sweep of twenty settings in the pages of a real MLflow server, in a real browser."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import soundfile

from tests.conftest import melody
from tests.miniature import BASE
from tests.mlflow_server import Server
from tests.pipeline.report.test_listening_in_browser import CHROMIUM, FLAGS

ROOT = Path(__file__).parents[2]
STRENGTHS, GUIDANCES, SEEDS, TRACKS = (0.2, 0.35, 0.5, 0.65, 0.8), (3, 5, 7, 9), (1, 2, 3), 6
SETTINGS = len(STRENGTHS) * len(GUIDANCES)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; apt-get install chromium"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    found = Server(folder)
    found.start()
    yield found
    found.kill()


@pytest.fixture(scope="module")
def said(folder: Path, server: Server) -> str:
    """What the job prints: five strengths by four guidances, three seeds, six tracks."""
    rows = []
    for k in range(TRACKS):
        soundfile.write(folder / f"t{k}.flac", melody(10.5, seed=k), 48_000)
        rows.append({"track_id": f"tune {k}", "source": f"t{k}.flac", "caption": "heavy metal, double bass drums"})
    (folder / "songs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [sys.executable, "-m", "jobs.restyle", f"manifest={folder}/songs.jsonl", f"output={folder}/out"]
    command += [
        f"model={BASE}",
        f"tracking.uri={server.uri}",
        "cover.inference_steps=20",
        "cluster=local",
    ]
    command += [f"grid.audio_cover_strength=[{','.join(map(str, STRENGTHS))}]"]
    command += [
        f"grid.guidance_scale=[{','.join(map(str, GUIDANCES))}]",
        f"grid.seed=[{','.join(map(str, SEEDS))}]",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def page(said: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser.new_page(viewport={"width": 1680, "height": 1050})
        browser.close()


def show(page: Any, address: str, folder: Path, name: str, until: str) -> None:
    """Open an address, wait for a text, and leave a picture of the page."""
    page.goto("about:blank")
    page.goto(address)
    page.get_by_text(until).first.wait_for(timeout=60_000)
    page.wait_for_timeout(2500)  # plots draw themselves after their headings
    page.screenshot(path=folder / f"{name}.png")


def test_the_sweep_is_one_job_of_twenty_settings(folder: Path, said: str) -> None:
    results = pq.read_table(folder / "out" / "results")
    assert len(results) == SETTINGS * len(SEEDS) * TRACKS
    assert set(results["status"].to_pylist()) == {"ok"}
    outcomes = pq.read_table(folder / "out" / "comparison" / "outcomes.parquet")
    assert outcomes["covers"].to_pylist() == [len(SEEDS) * TRACKS] * SETTINGS
    assert (folder / "out" / "comparison" / "listen.html").stat().st_size < 10e6


def test_the_compare_link_opens_on_the_question_that_is_asked(folder: Path, said: str, page: Any) -> None:
    (link,) = re.findall(r"compare +(http\S+)", said)
    show(page, link, folder, "parallel", "Comparing 20 Runs from 1 Experiment")
    axes = page.locator("svg text").all_text_contents()
    assert {"audio_cover_strength", "guidance_scale", "Objective"} <= set(axes)
    page.get_by_role("tab", name="Contour Plot").click()
    page.wait_for_timeout(3000)
    page.screenshot(path=folder / "contour.png")
    assert page.get_by_text("doesn't have enough unique data points").count() == 0
    assert page.locator("svg .contour path").count() > 0
    for tab in ("Scatter Plot", "Box Plot"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(2000)
        page.screenshot(path=folder / f"{tab.split()[0].lower()}.png")


def test_runs_audio_and_the_listening_page_are_there(folder: Path, server: Server, said: str, page: Any) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(server.uri)
    (experiment,) = [found for found in client.search_experiments() if found.name == "songs"]
    base = f"{server.uri}/#/experiments/{experiment.experiment_id}/runs"
    (address,) = re.findall(r"runs +(http\S+)", said)
    show(page, address, folder, "runs", f"{SETTINGS + 1} matching runs")

    runs = {run.info.run_name: run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    show(page, f"{base}/{runs['songs']}", folder, "job", "Compare the settings")
    show(page, f"{base}/{runs['s0.50 g7.0']}/artifacts/samples", folder, "samples", "tune 0.flac")
    page.get_by_text("tune 0.flac").first.click()
    page.locator("audio").first.wait_for(state="attached", timeout=60_000)
    page.wait_for_timeout(4000)
    page.screenshot(path=folder / "audio.png")
    seconds = page.locator("audio").first.evaluate("audio => audio.duration")
    assert seconds == pytest.approx(10.5, abs=0.1)

    show(page, f"{base}/{runs['songs']}/artifacts/comparison/listen.html", folder, "listen", "listen.html")
    frame = next(frame for frame in page.frames if frame != page.main_frame)
    frame.get_by_text("Rank and colour by").wait_for(timeout=60_000)
    page.screenshot(path=folder / "listen.png")
    frame.locator("td.cell .play").first.click()
    frame.wait_for_function("() => players.cover.currentTime > 0.3")
