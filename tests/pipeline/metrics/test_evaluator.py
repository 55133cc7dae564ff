"""What a worker measures: every column filled or explained, and nothing that costs a cover."""

import math

import pytest
import torch

from acestep.errors import RequestError
from pipeline.metrics.evaluator import Evaluator
from pipeline.metrics.registry import MEASURES
from pipeline.metrics.spec import MetricsSpec
from pipeline.results.writer import as_table
from tests.conftest import melody

DEFAULT = {measure.name for measure in MEASURES if not measure.extra}
WAVE = torch.from_numpy(melody(10.0).T.copy())
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator(MetricsSpec(), CPU)


def test_columns_are_those_of_a_result_row(evaluator: Evaluator) -> None:
    row = evaluator.measure(evaluator.listen(WAVE), WAVE, "jazz")
    assert set(row) == DEFAULT | {"unmeasured", "measure_s"}
    assert row["harmony/chroma_excess"] == pytest.approx(1, abs=1e-4)
    assert as_table([{"item_id": "a", **row}]).to_pylist()[0]["audio/finite"] is True


@pytest.mark.parametrize("broken", ["silent", "nan", "one sample"])
def test_a_broken_cover_has_reasons_and_no_holes(evaluator: Evaluator, broken: str) -> None:
    cover = {"silent": WAVE * 0, "nan": WAVE * math.nan, "one sample": WAVE[:, :1]}[broken]
    for source, made in ((WAVE, cover), (cover, WAVE)):
        row = evaluator.measure(evaluator.listen(source), made, "jazz")
        explained = {text.split(": ")[0] for text in row["unmeasured"]}
        assert set(row) - {"unmeasured", "measure_s"} == DEFAULT - explained
        assert explained >= {"harmony/chroma_excess", "melody/salience_excess", "structure/ssm_corr"}
        assert all(math.isfinite(value) for name, value in row.items() if name in DEFAULT)


def test_what_goes_wrong_costs_the_measures_and_never_the_cover(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(waves: object) -> None:
        raise RuntimeError("no memory")

    source = evaluator.listen(WAVE)
    monkeypatch.setattr("pipeline.metrics.evaluator.extract", fail)
    row = evaluator.measure(source, WAVE, "jazz")
    assert row["unmeasured"] == ["all: RuntimeError: no memory"]
    assert set(row) == {"unmeasured", "measure_s"}
    assert evaluator.measure(evaluator.listen(WAVE), WAVE, "jazz")["unmeasured"] == [
        "all: RuntimeError: no memory"
    ]


def test_a_source_is_charged_to_all_of_its_covers(evaluator: Evaluator) -> None:
    source = evaluator.listen(WAVE)
    assert source is not None
    alone, shared = (evaluator.measure(source, WAVE, "jazz", covers)["measure_s"] for covers in (1, 1000))
    assert alone > source.seconds
    assert alone - shared == pytest.approx(source.seconds, abs=0.8 * source.seconds)


def test_nothing_is_measured_when_it_is_off() -> None:
    evaluator = Evaluator(MetricsSpec(enabled=False, melody=True, style="nowhere/at-all"), CPU)
    assert evaluator.listen(WAVE) is None
    assert evaluator.measure(None, WAVE, "jazz") == {}


def test_an_extra_that_is_not_here_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RequestError, match=r"metrics\.style='no such/thing'"):
        Evaluator(MetricsSpec(style="no such/thing"), CPU)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r'pip install "restyle\[melody\]"'):
        MetricsSpec(melody=True).check()
