"""The sweep: names, ids, and points that would be the same."""

import pytest

from acestep.errors import RequestError
from pipeline.catalogue.grid import Point, distinct, make_settings, names_of
from tests.refusals import raises

BASE = {"audio_cover_strength": 0.5, "guidance_scale": 9.0, "seed": 42}


def test_cross_product_with_short_names() -> None:
    grid = {"audio_cover_strength": [0.3, 0.6], "guidance_scale": [7, 9.5], "shift": None}
    settings = make_settings(BASE, grid)
    assert [s.name for s in settings] == ["s0.30 g7.0", "s0.30 g9.5", "s0.60 g7.0", "s0.60 g9.5"]
    assert settings[0].varied == {"audio_cover_strength": 0.3, "guidance_scale": 7.0}
    assert len({s.setting_id for s in settings}) == 4
    assert make_settings(BASE, grid)[2].setting_id == settings[2].setting_id


def test_seeds_are_repeats_of_one_setting() -> None:
    settings = make_settings(BASE, {"guidance_scale": [7, 9], "seed": [1, 2, 3]})
    assert [s.seed for s in settings] == [1, 2, 3] * 2
    assert [s.name for s in settings] == ["g7.0"] * 3 + ["g9.0"] * 3
    assert len({s.setting_id for s in settings}) == 2
    assert {tuple(s.varied) for s in settings} == {("guidance_scale",)}
    assert names_of(settings, 1) == "g7.0, ..."


def test_points_in_place_of_a_product() -> None:
    points = [
        Point({"audio_cover_strength": 0.3, "guidance_scale": 7, "seed": 1}, frozenset("a")),
        Point({"audio_cover_strength": 0.6, "guidance_scale": 7, "seed": 2}),
    ]
    settings = make_settings(BASE, {}, points=points)
    assert [(s.name, s.seed, s.tracks) for s in settings] == [
        ("s0.30 g7.0", 1, frozenset("a")),
        ("s0.60 g7.0", 2, None),
    ]
    whole = make_settings(BASE | {"guidance_scale": 7}, {"audio_cover_strength": [0.3, 0.6]})
    assert [s.setting_id for s in settings] == [s.setting_id for s in whole]


def test_one_value_needs_no_list_and_does_not_vary() -> None:
    (setting,) = make_settings(BASE, {"guidance_scale": 7, "seed": [5]})
    assert (setting.cover.guidance_scale, setting.seed, setting.varied) == (7.0, 5, {})
    assert setting.name == "s0.50 g7.0"


def test_timesteps_are_a_value_or_a_list_of_them() -> None:
    assert len(make_settings(BASE, {"timesteps": [1.0, 0.5, 0.0]})) == 1
    assert len(make_settings(BASE, {"timesteps": [[1.0, 0.5, 0.0], [1.0, 0.2, 0.0]]})) == 2
    assert len(make_settings(BASE, {"timesteps": [None, [1.0, 0.2, 0.0]]})) == 2


def test_names_that_two_decimals_cannot_tell_apart_are_written_out() -> None:
    settings = make_settings(BASE | {"inference_steps": 1000}, {"audio_cover_strength": [0.301, 0.302]})
    assert [s.name for s in settings] == ["audio_cover_strength=0.301", "audio_cover_strength=0.302"]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"guidance_scale": []}, "grid.guidance_scale is empty"),
        ({"seed": [1, 1]}, "grid.seed lists 1 twice"),
        ({"guidence_scale": [7]}, "unknown setting 'guidence_scale'; did you mean 'guidance_scale'"),
        ({"audio_cover_strength": [0.5, 1.5]}, "audio_cover_strength 1.5 is out of range"),
        ({"seed": ["x"]}, "seed 'x' is not a whole number"),
        ({"guidance_scale": [7, 7.0]}, "grid.guidance_scale lists 7.0 twice"),
        ({"dcw_enabled": [True, "true"]}, "grid.dcw_enabled lists True twice"),
    ],
)
def test_bad_grids(grid: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make_settings(BASE, grid)


def test_settings_that_would_sound_the_same_are_refused_with_the_reason() -> None:
    settings = make_settings(BASE, {"guidance_scale": [7, 9], "seed": [1, 2]})
    assert distinct(settings, is_turbo=False) == settings
    with pytest.raises(RequestError) as caught:
        distinct(settings, is_turbo=True)
    message = str(caught.value)
    assert message.count("g7.0 = g9.0: each runs 8 steps") == 1  # said once for both seeds
    assert "guidance_scale 7 has no effect: turbo models have guidance built in" in message


def test_run_once_keeps_the_first_of_each() -> None:
    settings = make_settings(BASE, {"guidance_scale": [7, 8, 9], "seed": [1, 2]})
    kept = distinct(settings, is_turbo=True, duplicates="run_once")
    assert [(s.name, s.seed, s.stands_for) for s in kept] == [
        ("g7.0", 1, ("g8.0", "g9.0")),
        ("g7.0", 2, ("g8.0", "g9.0")),
    ]
    with raises(RequestError, "unknown_value", "grid.duplicates", "drop") as raised:
        distinct(settings, True, "drop")
    assert raised.value.allowed == ("refuse", "run_once")


def test_five_strengths_by_four_guidances() -> None:
    """On turbo guidance does nothing and eight steps tell few strengths apart; on base all points differ."""
    grid = {"audio_cover_strength": [0.3, 0.35, 0.4, 0.5, 0.6], "guidance_scale": [7, 8, 9, 10]}
    settings = make_settings(BASE, grid)
    assert len(distinct(settings, is_turbo=False)) == 20
    with pytest.raises(RequestError) as caught:
        distinct(settings, is_turbo=True)
    lines = [line for line in str(caught.value).splitlines() if " = " in line]
    assert len(lines) == 3  # of eight steps 0.30 and 0.35 are both two, 0.40 is three, 0.50 and 0.60 are four
    assert lines[0].split(":")[0].count("=") == 7
    assert "each runs 8 steps, 2 of them on the source, guidance 1" in lines[0]
    kept = distinct(settings, True, "run_once")
    assert [s.name for s in kept] == ["s0.30 g7.0", "s0.40 g7.0", "s0.50 g7.0"]


def test_stages_are_settings_with_parents() -> None:
    stages = [{"caption": "rock"}, {"caption": "metal", "guidance_scale": 7}]
    settings = make_settings(BASE, {"audio_cover_strength": [0.3, 0.6]}, stages)
    assert [s.name for s in settings] == ["s0.30 stage1", "s0.30 stage2", "s0.60 stage1", "s0.60 stage2"]
    assert [s.parent for s in settings] == [None, settings[0].setting_id, None, settings[2].setting_id]
    assert [s.cover.guidance_scale for s in settings] == [9, 7, 9, 7]
    assert settings[1].stages[0].caption == "rock"
    with raises(RequestError, "conflict", remedy="take it out of one of them"):
        make_settings(BASE, {"guidance_scale": [7, 8]}, stages)
    with raises(RequestError, "unknown_field") as raised:
        make_settings(BASE, {}, [{}, {"strength": 1}])
    assert raised.value.where == "stage 2"


def test_run_once_keeps_chains_together() -> None:
    settings = make_settings(BASE, {"guidance_scale": [7, 9]}, [{"caption": "rock"}, {"caption": "metal"}])
    kept = distinct(settings, True, "run_once")
    assert [s.name for s in kept] == ["g7.0 stage1", "g7.0 stage2"]
    assert kept[1].parent == kept[0].setting_id
