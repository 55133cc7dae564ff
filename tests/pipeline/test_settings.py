"""The sweep: names, ids, and points that would be the same."""

import pytest

from acestep.errors import RequestError
from pipeline.settings import make_settings, refuse_duplicates

BASE = {"audio_cover_strength": 0.5, "guidance_scale": 9.0, "seed": 42}


def test_cross_product_with_short_names() -> None:
    grid = {"audio_cover_strength": [0.3, 0.6], "guidance_scale": [7, 9.5], "shift": None}
    settings = make_settings(BASE, grid)
    assert [s.name for s in settings] == ["s0.30 g7.0", "s0.30 g9.5", "s0.60 g7.0", "s0.60 g9.5"]
    assert settings[0].varied == {"audio_cover_strength": 0.3, "guidance_scale": 7.0}
    assert len({s.setting_id for s in settings}) == 4
    assert make_settings(BASE, grid)[2].setting_id == settings[2].setting_id


def test_one_value_needs_no_list_and_does_not_vary() -> None:
    (setting,) = make_settings(BASE, {"guidance_scale": 7, "seed": [5]})
    assert (setting.cover.guidance_scale, setting.seed, setting.varied) == (7.0, 5, {})
    assert setting.name == "s0.50 g7.0"


def test_timesteps_are_a_value_or_a_list_of_them() -> None:
    assert len(make_settings(BASE, {"timesteps": [1.0, 0.5, 0.0]})) == 1
    assert len(make_settings(BASE, {"timesteps": [[1.0, 0.5, 0.0], [1.0, 0.2, 0.0]]})) == 2


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"guidance_scale": []}, "grid.guidance_scale is empty"),
        ({"seed": [1, 1]}, "grid.seed lists 1 twice"),
        ({"guidance": [7]}, "unknown setting 'guidance'; did you mean 'guidance_scale'"),
        ({"audio_cover_strength": [0.5, 1.5]}, "audio_cover_strength 1.5 is out of range"),
        ({"seed": ["x"]}, "seed 'x' is not a whole number"),
    ],
)
def test_bad_grids(grid: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make_settings(BASE, grid)


def test_settings_that_would_sound_the_same_are_refused_with_the_reason() -> None:
    settings = make_settings(BASE, {"guidance_scale": [7, 9], "seed": [1, 2]})
    assert len(refuse_duplicates(settings, is_turbo=False)) == 4
    with pytest.raises(RequestError) as caught:
        refuse_duplicates(settings, is_turbo=True)
    message = str(caught.value)
    assert "g7.0 seed1 = g9.0 seed1" in message
    assert "g7.0 seed2 = g9.0 seed2" in message
    assert "guidance_scale 7 has no effect: turbo models have guidance built in" in message
