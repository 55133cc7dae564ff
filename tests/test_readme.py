"""What README says of measures and strengths is what the code does."""

import re
from collections.abc import Iterator
from pathlib import Path

from acestep.sampling.plan import resolve
from acestep.sampling.setting import CoverSetting
from pipeline.metrics.registry import MEASURES

ROOT = Path(__file__).parents[1]
MODEL = "metrics.style=laion/larger_clap_music_and_speech"
README = (ROOT / "README.md").read_text()


def rows(heading: str) -> Iterator[list[str]]:
    """Cells of the table under the line that starts with ``heading``."""
    lines = README[README.index(heading) :].splitlines()[2:]
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def test_every_measure_is_told_of() -> None:
    told = {name for cells in rows("| measure | says |") for name in re.findall(r"`([^`]+)`", "".join(cells))}
    for measure in MEASURES:
        group, _, name = measure.name.partition("/")
        assert {measure.name, name, f"{group}/..."} & told, measure.name
    known = {measure.name for measure in MEASURES}
    assert {name for name in told if "/" in name and not name.endswith("/...")} - known == {MODEL}


def test_the_strength_table_counts_steps_as_the_sampler_does() -> None:
    for strengths, *counts, _ in rows("| strength | turbo, 8 steps |"):
        for said, turbo in zip(counts, (True, False), strict=True):
            steps = [
                resolve(CoverSetting(audio_cover_strength=float(s)), turbo).cover_steps
                for s in strengths.split(" - ")
            ]
            assert said == " - ".join(map(str, steps))
