"""Pictures show what was measured, and only where there is something to compare."""

import io
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from pipeline.evaluation.comparison import compare
from pipeline.report.figures import draw_figures
from pipeline.report.plotting import PlotData, amount, numbers
from tests.pipeline.report.covers import cover, failed, table

KEY = (
    "score",
    "song_kept",
    "style_moved",
    "harmony",
    "melody",
    "structure",
    "rhythm",
    "timbre_distance",
    "loudness",
)
STRENGTHS, GUIDANCES = (0.1, 0.3, 0.5, 0.7, 0.9), (5.0, 7.0, 9.0, 11.0)


def rows(strengths: tuple[float, ...], guidances: tuple[float, ...], tracks: int = 6, **own: Any) -> list[dict]:
    return [cover(f"t{t}", s, g, **own) for t in range(tracks) for s in strengths for g in guidances]


def drawn(covers: list[dict]) -> dict[str, bytes]:
    return draw_figures(table(covers), compare(table(covers)))


def summary(covers: list[dict]) -> PlotData:
    return numbers(compare(table(covers)))


def test_twenty_settings_have_every_picture_small_enough_to_store() -> None:
    made = drawn(rows(STRENGTHS, GUIDANCES))
    assert set(made) == {f"heat_map_{name}.png" for name in KEY} | {
        "dose_response.png",
        "dose_response_measures.png",
        "distributions.png",
        "distributions_measures.png",
        "trade_off.png",
    }
    for name, content in made.items():
        assert len(content) < 300_000, name
        picture = imread(io.BytesIO(content))
        assert min(picture.shape[:2]) > 300, name
        edges = (picture[:2], picture[-2:], picture[:, :2], picture[:, -2:])
        assert all(edge.min() == 1 for edge in edges), f"{name}: something is cut off"


@pytest.mark.parametrize(
    ("strengths", "guidances", "absent"),
    [
        ((0.2, 0.8), (7.0,), {"heat_map"}),
        ((0.5,), (5.0, 9.0), {"heat_map", "dose_response"}),
        ((0.5,), (7.0,), {"heat_map", "dose_response"}),
    ],
)
def test_only_what_varies_is_drawn(strengths: tuple, guidances: tuple, absent: set[str]) -> None:
    kinds = {"heat_map", "dose_response", "distributions", "trade_off"}
    made = drawn(rows(strengths, guidances, tracks=2))
    assert {kind for kind in kinds if not any(name.startswith(kind) for name in made)} == absent


def test_few_tracks_failures_and_missing_measures_are_no_obstacle() -> None:
    covers = rows((0.2, 0.8), (5.0, 9.0), tracks=2)
    covers = [failed(row) if row["audio_cover_strength"] == 0.2 else row for row in covers]
    covers = [row | {"structure/ssm_corr": None} for row in covers]
    made = drawn(covers)
    assert "heat_map_harmony.png" in made
    assert "heat_map_structure.png" not in made


def test_two_launches_draw_the_same_bytes() -> None:
    covers = rows((0.2, 0.8), (5.0, 9.0), tracks=3)
    assert drawn(covers) == drawn(covers)


def test_a_cell_of_several_settings_is_the_one_with_the_best_score() -> None:
    covers = []
    for shift, score in ((1.0, 0.3), (3.0, 0.6)):
        made = rows((0.2, 0.8), (5.0, 9.0), shift=shift)
        covers += [
            row
            | {"setting_id": f"{row['setting_id']} {shift}", "setting_name": f"{row['setting_name']} {shift}"}
            | {"harmony/chroma_excess": score, "melody/salience_excess": score, "timbre/mfcc_distance": 10.0}
            for row in made
        ]
    found = summary(covers)
    assert set(found.cells("audio_cover_strength", "guidance_scale").values()) == {
        f"id of s{s:.2f} g{g:.1f} 3.0" for s in (0.2, 0.8) for g in (5.0, 9.0)
    }
    assert found.hidden() == ["Where shift varies: the setting with the best score."]


def test_a_heat_map_is_darker_where_there_is_more() -> None:
    covers = rows((0.1, 0.9), (5.0, 9.0))
    covers = [row | {"audio/lufs": -20.0 + 10 * (row["audio_cover_strength"] > 0.5)} for row in covers]
    picture = imread(io.BytesIO(drawn(covers)["heat_map_loudness.png"]))[:, :, 0]
    height, width = picture.shape
    left, right = (np.median(picture[height // 3 : height // 2, x : x + 40]) for x in (width // 3, width * 3 // 4))
    assert right < left - 0.2


def test_amounts_have_the_digits_that_matter() -> None:
    assert [amount(number) for number in (0.123, -0.5, 12.34, -14.06)] == [
        "0.12",
        "\u22120.50",
        "12.3",
        "\u221214.1",
    ]


def test_settings_with_explicit_times_or_without_a_strength_are_drawn() -> None:
    timed = [
        cover(
            f"t{k}",
            strength,
            7.0,
            timesteps=times,
            setting_id=f"{strength} {times}",
            setting_name=f"{strength} {times}",
        )
        for k in range(7)
        for strength in (0.3, 0.6)
        for times in ([1.0, 0.5, 0.0], [1.0, 0.2, 0.0])
    ]
    assert draw_figures(table(timed), compare(table(timed)))
    some = [cover(f"t{k}", strength, 7.0) for k in range(7) for strength in (0.3, 0.6)]
    other = {"audio_cover_strength": None, "setting_id": "other", "setting_name": "other"}
    some += [cover(f"t{k}", 0.3, 7.0) | other | {"item_id": f"other {k}"} for k in range(7)]
    assert draw_figures(table(some), compare(table(some)))
