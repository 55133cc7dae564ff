"""From a requested setting to what runs."""

import pytest

from acestep.cover import CoverSetting, parse_setting, resolve
from acestep.errors import RequestError

GUIDE = CoverSetting(audio_cover_strength=0.4, guidance_scale=9.0, inference_steps=28, shift=3.0)


def guided(setting: CoverSetting) -> list[int]:
    return [i for i, step in enumerate(resolve(setting, is_turbo=False).steps) if step.guided]


def test_strength_switches_after_whole_steps() -> None:
    plan = resolve(GUIDE, is_turbo=False)
    assert plan.cover_steps == 11
    assert [step.branch for step in plan.steps] == ["cover"] * 11 + ["text"] * 17
    assert plan.t_switch == plan.steps[11].t
    assert resolve(parse_setting({"audio_cover_strength": 1}, GUIDE), False).t_switch is None
    assert {s.branch for s in resolve(parse_setting({"audio_cover_strength": 0}, GUIDE), False).steps} == {"text"}


def test_interval_has_three_readings() -> None:
    """With the guide's numbers: its own words drop the last step, upstream's the first four, diffusers' none."""
    by_step = parse_setting({"cfg_interval_on": "step", "cfg_interval_end": 0.95}, GUIDE)
    by_t = parse_setting({"cfg_interval_on": "t", "cfg_interval_end": 0.95}, GUIDE)
    by_progress = parse_setting({"cfg_interval_on": "one_minus_t", "cfg_interval_end": 0.95}, GUIDE)
    assert guided(by_step) == list(range(27))
    assert guided(by_t) == list(range(4, 28))
    assert guided(by_progress) == list(range(28))


def test_schedule_ends_at_zero_and_is_shifted() -> None:
    steps = resolve(parse_setting({"inference_steps": 8}, GUIDE), True).steps
    times = [round(step.t, 6) for step in steps]
    assert times == [1, 0.954545, 0.9, 0.833333, 0.75, 0.642857, 0.5, 0.3]
    assert steps[-1].t_next == 0


def test_turbo_says_what_it_ignores() -> None:
    plan = resolve(GUIDE, is_turbo=True)
    assert plan.guidance_scale == 1
    assert plan.inference_steps == 20
    assert plan.evaluations == 20
    assert any("guidance_scale 9 has no effect" in note for note in plan.notes)
    assert any("inference_steps 28 is cut to 20" in note for note in plan.notes)
    assert resolve(CoverSetting(guidance_scale=1.0), is_turbo=True).notes == ()
    assert resolve(CoverSetting(), is_turbo=True).inference_steps == 8
    assert resolve(CoverSetting(), is_turbo=False).inference_steps == 28


def test_identity_is_what_runs_not_what_was_asked() -> None:
    def identity(turbo: bool, **values: object) -> dict:
        return resolve(parse_setting(values, GUIDE), turbo).identity()

    assert identity(True, guidance_scale=3) == identity(True, guidance_scale=7)
    assert identity(False, guidance_scale=3) != identity(False, guidance_scale=7)
    assert identity(True, inference_steps=8, audio_cover_strength=0.7) == identity(
        True, inference_steps=8, audio_cover_strength=0.74
    )
    assert identity(False, audio_cover_strength=0.0) == identity(
        False, audio_cover_strength=0.0, task_type="cover-nofsq"
    )
    assert identity(False, task_type="cover-nofsq") != identity(False)


def test_guidance_outside_every_step_is_reported() -> None:
    plan = resolve(parse_setting({"cfg_interval_start": 0.99, "cfg_interval_end": 1.0}, GUIDE), False)
    assert plan.guidance_scale == 1
    assert "no step lies in the interval" in plan.notes[0]


def test_explicit_timesteps() -> None:
    base = resolve(CoverSetting(timesteps=(1.0, 0.6, 0.2, 0.0)), False)
    assert [(s.t, s.t_next) for s in base.steps] == [(1.0, 0.6), (0.6, 0.2), (0.2, 0.0)]
    turbo = resolve(CoverSetting(timesteps=(0.97, 0.615, 0.28, 0.0)), True)
    assert [round(s.t, 4) for s in turbo.steps] == [0.9545, 0.625, 0.3]
    assert "timesteps run as" in turbo.notes[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"audio_cover_strength": 1.5}, r"audio_cover_strength 1\.5 is out of range; allowed: 0\.\.1"),
        ({"audio_cover_strength": "loud"}, "audio_cover_strength 'loud' is not a number"),
        ({"audio_cover_strength": float("nan")}, "out of range"),
        ({"guidance_scale": 0.5}, "guidance_scale 0.5 is out of range"),
        ({"inference_steps": 0}, "inference_steps 0 is out of range"),
        ({"inference_steps": 7.5}, "inference_steps 7.5 is not a whole number"),
        ({"inference_steps": True}, "not a whole number"),
        ({"infer_method": "sde"}, "not supported yet"),
        ({"task_type": "repaint"}, "task_type 'repaint' is unknown; use one of cover, cover-nofsq"),
        ({"cfg_interval_start": 0.9, "cfg_interval_end": 0.1}, "swap them"),
        ({"guidnce_scale": 7}, "unknown setting 'guidnce_scale'; did you mean 'guidance_scale'"),
        ({"timesteps": [0.2, 0.9]}, "fall from 1 towards 0"),
    ],
)
def test_bad_values_name_themselves(values: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_setting(values)


def test_text_values_are_read_as_a_csv_has_them() -> None:
    setting = parse_setting({"audio_cover_strength": "0.3", "inference_steps": "12", "timesteps": "1,0.5,0"})
    assert (setting.audio_cover_strength, setting.inference_steps) == (0.3, 12)
    assert setting.timesteps == (1.0, 0.5, 0.0)
