"""A score that neither a copy nor another song can win."""

import math
from typing import Any

import pyarrow as pa
import pytest

from acestep.errors import RequestError
from pipeline.evaluation.objective import HALF_MOVED, KEPT, MOVED, SCORE, Objective, score


def scored(objective: Objective | None = None, **values: Any) -> dict[str, float | None]:
    row = {
        "status": "ok",
        "cover/outcome": "ok",
        "harmony/chroma_excess": 0.8,
        "melody/salience_excess": 0.4,
        "timbre/mfcc_distance": HALF_MOVED,
        "style/clap_text": 0.3,
    }
    types = {name: pa.string() if isinstance(value, str) else pa.float64() for name, value in row.items()}
    table = pa.Table.from_pylist([row | values], schema=pa.schema(list(types.items())))
    return score(table, objective or Objective()).to_pylist()[0]


def test_the_score_is_the_harmonic_mean_of_kept_and_moved() -> None:
    found = scored()
    assert found[KEPT] == pytest.approx(0.6)
    assert found[MOVED] == pytest.approx(0.5)  # at half the way
    assert found[SCORE] == pytest.approx(2 * 0.6 * 0.5 / 1.1)


def test_a_distance_has_no_end_and_a_style_measure_has() -> None:
    far = [scored(**{"timbre/mfcc_distance": d})[MOVED] for d in (0, 5, 3 * HALF_MOVED, 1e6)]
    assert far[0] == 0
    assert far == sorted(far)
    assert far[2] == pytest.approx(0.75)
    by_style = Objective(moved="style/clap_text")
    assert scored(by_style)[MOVED] == pytest.approx(0.3)
    assert scored(by_style, **{"style/clap_text": -0.2})[MOVED] == 0
    assert scored(Objective(half=30.0), **{"timbre/mfcc_distance": 30.0})[MOVED] == pytest.approx(0.5)


def test_each_kept_measure_is_clipped_before_the_mean() -> None:
    assert scored(**{"melody/salience_excess": -0.1})[KEPT] == pytest.approx(0.4)
    assert scored(**{"harmony/chroma_excess": -0.1, "melody/salience_excess": -0.1})[SCORE] == 0


@pytest.mark.parametrize(
    "values",
    [
        {"cover/outcome": "copy"},
        {"cover/outcome": "lost"},
        {"cover/outcome": "failed"},
        {"status": "failed", "cover/outcome": None, "harmony/chroma_excess": None},
    ],
)
def test_what_is_worthless_scores_zero(values: dict[str, Any]) -> None:
    assert scored(**values)[SCORE] == 0


@pytest.mark.parametrize(
    "values",
    [
        {"harmony/chroma_excess": None},
        {"melody/salience_excess": math.nan},
        {"timbre/mfcc_distance": math.inf},
        {"cover/outcome": None, "timbre/mfcc_distance": None},
        {"status": "rejected", "cover/outcome": "failed"},
    ],
)
def test_what_was_not_measured_has_no_score(values: dict[str, Any]) -> None:
    assert scored(**values)[SCORE] is None


def test_a_cover_that_nobody_judged_is_scored_by_its_measures() -> None:
    assert scored(**{"cover/outcome": None})[SCORE] == pytest.approx(0.5454545)


def test_a_mistaken_objective_is_refused_with_a_remedy() -> None:
    with pytest.raises(
        RequestError, match=r"'harmony/chroma_exces' is unknown; did you mean 'harmony/chroma_excess'"
    ):
        Objective(kept=("harmony/chroma_exces",))
    with pytest.raises(
        RequestError, match="'audio/lufs' does not say what stayed of the song; use one of harmony/"
    ):
        Objective(kept=("audio/lufs",))
    with pytest.raises(
        RequestError, match="'rhythm/onset_corr' does not say how far the style moved; use one of ti"
    ):
        Objective(moved="rhythm/onset_corr")
    with pytest.raises(RequestError, match="empty"):
        Objective(kept=())
    with pytest.raises(RequestError, match="twice"):
        Objective(kept=("structure/ssm_corr", "structure/ssm_corr"))
    for half in (0.0, -1.0, math.nan):
        with pytest.raises(RequestError, match="half"):
            Objective(half=half)
