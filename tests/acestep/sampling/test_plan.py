"""From a requested setting to what runs."""

import pytest

from acestep.errors import RequestError
from acestep.parameters.suggestions import nearest
from acestep.sampling.plan import Branch, CoverPlan, resolve
from acestep.sampling.setting import SETTING_FIELDS, CoverSetting, parse_setting

GUIDE = CoverSetting(audio_cover_strength=0.4, guidance_scale=9.0, inference_steps=28, shift=3.0)


def guided(setting: CoverSetting) -> list[int]:
    return [i for i, step in enumerate(resolve(setting, is_turbo=False).steps) if step.guided]


def test_strength_switches_after_whole_steps() -> None:
    plan = resolve(GUIDE, is_turbo=False)
    assert plan.cover_steps == 11
    cover, text = Branch("cover", "cover"), Branch("text2music", "silence")
    assert [step.branch for step in plan.steps] == [cover] * 11 + [text] * 17
    assert plan.t_switch == plan.steps[11].t
    assert resolve(parse_setting({"audio_cover_strength": 1}, GUIDE), False).t_switch is None
    assert {s.branch for s in resolve(parse_setting({"audio_cover_strength": 0}, GUIDE), False).steps} == {text}


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
    assert resolve(CoverSetting(), is_turbo=False).notes == ()
    assert resolve(CoverSetting(), is_turbo=True).inference_steps == 8
    assert resolve(CoverSetting(), is_turbo=False).inference_steps == 28


def test_a_turbo_model_at_shift_1_is_noted_and_runs() -> None:
    for shift, noted in ((0.5, True), (1.0, True), (2.0, False), (3.0, False)):
        plan = plan_of(True, inference_steps=8, guidance_scale=1.0, cfg_interval_end=0.95, shift=shift)
        assert plan.shift == shift
        assert [note for note in plan.notes if note.startswith(f"shift {shift:g}: ")] == list(plan.notes)
        assert bool(plan.notes) is noted
    assert not any(note.startswith("shift 1:") for note in plan_of(False, shift=1.0).notes)
    explicit = plan_of(True, timesteps=[1.0, 0.5], shift=1.0)
    assert not any(note.startswith("shift 1:") for note in explicit.notes)


def test_a_word_of_a_name_is_understood() -> None:
    for wrong, meant in (
        ("strength", ["audio_cover_strength", "cover_noise_strength"]),
        ("steps", ["inference_steps"]),
        ("guidence", ["guidance"]),
        ("Shift", ["shift"]),
        ("zzz", []),
    ):
        assert nearest(wrong, SETTING_FIELDS) == meant


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
        ({"infer_method": "euler"}, "infer_method 'euler' is unknown; use one of ode, sde"),
        ({"blend": "mix"}, "blend 'mix' is unknown; use one of switch, velocity, embed, embed_context"),
        ({"infer_method": "sde", "sampler_mode": "heun"}, "with infer_method 'sde' use 'euler'"),
        ({"infer_method": "sde", "dcw_enabled": True}, "dcw_enabled corrects an ODE step"),
        ({"dcw_enabled": "maybe"}, "dcw_enabled 'maybe' is not true or false"),
        ({"cover_noise_strength": 1.1}, "cover_noise_strength 1.1 is out of range"),
        ({"retake_variance": 0.3}, "give retake_seed"),
        ({"flow_edit_morph": True}, "give flow_edit_source_caption"),
        ({"flow_edit_morph": True, "flow_edit_source_caption": "a", "infer_method": "sde"}, "use 'ode'"),
        ({"flow_edit_n_min": 0.8, "flow_edit_n_max": 0.2}, "lower the one or raise the other"),
        ({"flow_edit_source_caption": None}, "flow_edit_source_caption is not text"),
        ({"flow_edit_source_caption": {"a": 1}}, "is not text"),
        ({"task_type": "repaint"}, "task_type 'repaint' is unknown; use one of cover, cover-nofsq"),
        ({"cfg_interval_start": 0.9, "cfg_interval_end": 0.1}, "lower the one or raise the other"),
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


def plan_of(turbo: bool = False, **values: object) -> CoverPlan:
    return resolve(parse_setting(values, GUIDE), turbo)


def test_blends_read_what_they_say() -> None:
    cover, text_over_source = Branch("cover", "cover"), Branch("text2music", "cover")
    velocity = plan_of(blend="velocity")
    assert {(s.branch, s.other, s.weight) for s in velocity.steps} == {(cover, text_over_source, 0.4)}
    assert velocity.cover_steps == 28
    assert velocity.evaluations == 27 * 3 + 2
    assert plan_of(blend="embed").branches == {Branch("mixed", "cover", "cover", 0.4)}
    assert plan_of(blend="embed_context").branches == {Branch("mixed", "mixed", "cover", 0.4)}
    whole = {plan_of(blend=blend, audio_cover_strength=1.0).branches for blend in ("switch", "velocity", "embed")}
    assert whole == {frozenset({cover})}


def test_strength_zero_of_each_blend() -> None:
    zero = {
        blend: plan_of(blend=blend, audio_cover_strength=0) for blend in ("velocity", "embed", "embed_context")
    }
    assert zero["velocity"].branches == {Branch("text2music", "cover")}
    assert zero["velocity"].guidance_scale == 1
    assert "unguided" in zero["velocity"].notes[0]
    assert zero["embed"].branches == {Branch("text2music", "cover")}
    assert zero["embed"].guidance_scale == 9
    assert zero["embed_context"].branches == {Branch("text2music", "silence")}


def test_cover_noise_starts_at_the_nearest_time_and_strength_counts_the_rest() -> None:
    plan = plan_of(cover_noise_strength=0.5, inference_steps=12)
    assert [round(step.t, 4) for step in plan.steps] == [0.5, 0.375, 0.2143]
    assert (plan.t_start, plan.inference_steps, plan.cover_steps) == (0.5, 3, 1)
    last = plan_of(cover_noise_strength=1.0, inference_steps=12)
    assert len(last.steps) == 1
    nothing = plan_of(cover_noise_strength=0.01, inference_steps=12)
    assert nothing.t_start is None
    assert "cover_noise_strength 0.01 has no effect" in nothing.notes[0]


def test_sde_returns_to_the_scheduled_time_unless_told() -> None:
    scheduled = plan_of(infer_method="sde", inference_steps=4)
    assert [s.renoise for s in scheduled.steps] == [s.t_next for s in scheduled.steps]
    unshifted = plan_of(infer_method="sde", inference_steps=4, sde_time="unshifted")
    assert [s.renoise for s in unshifted.steps] == [0.75, 0.5, 0.25, 0.0]
    turbo = plan_of(True, infer_method="sde", inference_steps=4, sde_time="unshifted")
    assert [s.renoise for s in turbo.steps] == [s.t_next for s in turbo.steps]
    assert any("sde_time 'unshifted' has no effect" in note for note in turbo.notes)


def test_heun_corrects_every_step_but_the_last_of_a_turbo_model() -> None:
    assert plan_of(sampler_mode="heun", inference_steps=5, guidance_scale=1).evaluations == 10
    assert plan_of(True, sampler_mode="heun", inference_steps=5).evaluations == 9
    guided = plan_of(sampler_mode="heun", inference_steps=5, cfg_interval_end=0.5)
    # Positions 0, 0.2, 0.4 are guided; a correction is tested where it is evaluated, one step further.
    assert [(s.guided, s.correction_guided) for s in guided.steps] == [
        (True, True),
        (True, True),
        (True, False),
        (False, False),
        (False, False),
    ]


def test_flow_edit_runs_two_sides_inside_its_window() -> None:
    words = {"flow_edit_morph": True, "flow_edit_source_caption": "country", "inference_steps": 10}
    plan = plan_of(**words, flow_edit_n_min=0.2, flow_edit_n_max=0.7, flow_edit_n_avg=2, cfg_interval_end=1.0)
    assert len(plan.steps) == 8
    assert [s.edit_from is not None for s in plan.steps] == [True] * 5 + [False] * 3
    assert plan.evaluations == 5 * 2 * 2 * 2 + 3 * 2
    assert plan.edit == ("country", "")
    assert any("audio_cover_strength 0.4 has no effect: flow-edit uses" in note for note in plan.notes)
    with pytest.raises(RequestError, match="flow_edit_morph needs guidance, which turbo models lack"):
        plan_of(True, **words)


def test_identity_tells_every_knob_apart() -> None:
    changes: list[dict] = [
        {},
        {"blend": "velocity"},
        {"blend": "embed"},
        {"blend": "embed_context"},
        {"guidance": "adg"},
        {"guidance": "cfg"},
        {"cover_noise_strength": 0.5},
        {"infer_method": "sde"},
        {"infer_method": "sde", "sde_time": "unshifted"},
        {"sampler_mode": "heun"},
        {"velocity_norm_threshold": 0.5},
        {"velocity_ema_factor": 0.1},
        {"dcw_enabled": True},
        {"dcw_enabled": True, "dcw_mode": "low"},
        {"retake_variance": 0.5, "retake_seed": 1},
        {"retake_variance": 0.5, "retake_seed": 2},
        {"reference_pick": "full"},
        {"flow_edit_morph": True, "flow_edit_source_caption": "a"},
        {"flow_edit_morph": True, "flow_edit_source_caption": "b"},
        {"flow_edit_morph": True, "flow_edit_source_caption": "b", "flow_edit_n_avg": 2},
    ]
    seen = [plan_of(**change).identity() for change in changes]
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])
    unguided = {"guidance_scale": 1}
    assert plan_of(**unguided, guidance="adg").identity() == plan_of(**unguided).identity()
    assert plan_of(dcw_scaler=0.01, sde_time="unshifted").identity() == plan_of().identity()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"timesteps": [1.0, 0.5, 0.0], "shift": 7}, "shift 7.0 has no effect: timesteps are given"),
        ({"guidance_scale": 1, "guidance": "adg"}, "guidance 'adg' has no effect: guidance_scale is 1"),
        ({"sde_time": "unshifted"}, "sde_time 'unshifted' has no effect: infer_method is not 'sde'"),
        ({"dcw_mode": "low"}, "dcw_mode 'low' has no effect: dcw_enabled is off"),
        ({"retake_seed": 3}, "retake_seed 3 has no effect: retake_variance is 0"),
        ({"flow_edit_source_caption": "a"}, "flow_edit_source_caption 'a' has no effect: flow_edit_morph is off"),
        ({"blend": "embed", "audio_cover_strength": 1}, "blend 'embed' has no effect: audio_cover_strength is 1"),
        ({"retake_variance": 1, "retake_seed": 3}, "seed has no effect on the start"),
    ],
    ids=str,
)
def test_what_does_nothing_beside_the_others_is_said(values: dict, said: str) -> None:
    assert any(said in note for note in plan_of(**values).notes)


def test_the_fields_of_the_identity_are_those_of_existing_items() -> None:
    """A new field changes the id of every item, so that finished catalogues are made again."""
    identity = resolve(GUIDE, is_turbo=False).identity()
    plan = (
        "guidance guidance_scale t_start steps reference_pick dcw retake edit "
        "velocity_norm_threshold velocity_ema_factor"
    )
    step = "t t_next branch guided other weight renoise corrected correction_guided edit_from draws"
    assert set(identity) == set(plan.split())
    assert set(identity["steps"][0]) == set(step.split())
