"""The demo catalogue: its tunes, and what ``make demo`` makes of them."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import soundfile

from pipeline.demo_catalogue.render import SONGS

ROOT = Path(__file__).parents[3]
CATALOGUE = ROOT / "pipeline" / "demo_catalogue"


def test_the_tunes_are_those_of_their_renderer_and_long_enough_to_be_judged() -> None:
    with (CATALOGUE / "manifest.csv").open() as file:
        sources = [row["source"] for row in csv.DictReader(file)]
    assert sources == [song.filename for song in SONGS]
    for song in SONGS:
        info = soundfile.info(CATALOGUE / song.filename)
        assert (info.samplerate, info.channels) == (song.rate, song.channels)
        assert info.duration == pytest.approx(song.seconds, abs=0.1)
        assert 12 <= song.seconds <= 24


@pytest.mark.slow
def test_make_demo_makes_covers_that_keep_their_songs(tmp_path: Path) -> None:
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    words = re.findall(r'"[^"]*"|[^\s\\]+', recipe[1])[1:]  # after the interpreter
    words = [word.strip('"') for word in words if not word.startswith("output=")]
    done = subprocess.run(
        [sys.executable, *words, f"output={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    covers = pq.read_table(tmp_path / "comparison" / "covers.parquet").to_pylist()
    assert len(covers) == 3 * len({cover["setting_id"] for cover in covers})
    assert {cover["cover/outcome"] for cover in covers} == {"ok"}
    assert "best is " in done.stdout
    assert (tmp_path / "comparison" / "listen.html").exists()
