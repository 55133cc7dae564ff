"""What README says of parameters is what the code does."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from acestep.generation.params import GenerationConfig, GenerationParams
from acestep.sampling.plan import resolve
from acestep.sampling.setting import CHOICES, RANGES, SETTING_FIELDS, CoverSetting
from jobs.schema import CoverConfig
from pipeline.metrics.registry import MEASURES
from tests.parity.replay import all_cases

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


REQUEST = list(rows("| parameter | default | meaning |"))
TABLE = {cells[0].strip("`"): cells for cells in rows("| parameter | default | `GenerationParams` |")}


def test_every_parameter_has_a_row_and_a_test() -> None:
    assert set(TABLE) == {*SETTING_FIELDS, "seed"}
    for name in (name for cells in REQUEST for name in re.findall(r"`([^`]+)`", cells[0])):
        assert name in {f.name for f in (*fields(GenerationParams), *fields(GenerationConfig))} | {"save_dir"}
    cases = {case.name for case in all_cases(ROOT / "tests" / "golden")}
    for name, cells in [*TABLE.items(), *((cells[0], cells) for cells in REQUEST)]:
        file, _, test = cells[-1].strip("`").partition("::")
        function, _, case = test.rstrip("]").partition("[")
        assert re.search(rf"^def {function}\b", (ROOT / file).read_text(), re.MULTILINE), name
        assert not case or case in cases, f"{name}: no reference vector {case}"


def says(cell: str, value: object) -> bool:
    """Whether a cell of the table holds a value."""
    if value is None:
        return cell in ("none", "model's own")
    if isinstance(value, bool):
        return cell.strip("`") == str(value).lower()
    return cell.strip("`") == (f"{value:g}" if isinstance(value, float) else str(value) or "empty")


@pytest.mark.parametrize("name", SETTING_FIELDS)
def test_defaults_and_ranges_are_the_codes(name: str) -> None:
    _, default, from_python, allowed, *_ = TABLE[name]
    value, python_value = getattr(CoverSetting(), name), getattr(GenerationParams(), name)
    assert says(default, value)
    assert says(from_python, python_value) if from_python != "same" else python_value == value
    if name in CHOICES:
        assert re.findall(r"`([^`]+)`", allowed) == list(CHOICES[name])
    elif name in RANGES:
        low, high = (eval(end.replace("^", "**"), {}) for end in allowed.split(" .. "))
        assert (low, high) == RANGES[name]


def test_the_default_seeds_are_the_codes() -> None:
    _, default, from_python, *_ = TABLE["seed"]
    assert int(default) == CoverConfig().seed
    assert from_python == f"{GenerationParams().seed}: drawn"


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
