"""Workloads are what they are called, and lengths are such that both sides make equally many frames."""

import pytest

from acestep.constants import MIN_LATENT_FRAMES
from pipeline.benchmark.case_flops import distinct_readings
from pipeline.benchmark.config import MAX_TRACKS, WORKLOADS, parse_request
from pipeline.benchmark.workloads import CATALOGUE_S, Workload, cover_workloads, make_track, module_durations


def made(workload: str, gpu: bool = False, **values: object) -> tuple[Workload, ...]:
    return cover_workloads(parse_request({"workload": workload, **values}), gpu)


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("workload", WORKLOADS)
def test_tracks_are_whole_windows_and_long_enough(workload: str, gpu: bool) -> None:
    works = made(workload, gpu)
    assert bool(works) != (workload in ("vae", "step"))
    for track in (track for work in works for track in work.tracks):
        assert track.frames % 5 == 0
        assert track.frames >= MIN_LATENT_FRAMES
        assert track.samples == 1920 * track.frames


@pytest.mark.parametrize(("seconds", "frames"), [(5.12, 130), (5.3, 130), (5.31, 135), (30, 750), (600, 15_000)])
def test_lengths_are_rounded_to_windows(seconds: float, frames: int) -> None:
    assert make_track(seconds, 0).frames == frames


def test_single_and_long() -> None:
    (turbo,), (base,) = made("single_turbo"), made("single_base")
    assert (turbo.turbo, base.turbo, turbo.audio_s) == (True, False, 10.0)
    assert {step.guided for step in base.plan(base.covers[0]).steps} == {True}
    assert not any(step.guided for step in turbo.plan(turbo.covers[0]).steps)
    assert made("single_turbo", size="full")[0].audio_s == 30.0
    assert [(w.turbo, w.audio_s) for w in made("long", gpu=True)] == [
        (True, 240),
        (True, 600),
        (False, 240),
        (False, 600),
    ]
    assert [made("single_base", gpu)[0].covers[0].setting.inference_steps for gpu in (False, True)] == [8, 28]


def test_the_sweep_is_five_by_four_in_both_semantics() -> None:
    switch, blend = made("sweep", gpu=True)
    for work in (switch, blend):
        grid = {(c.setting.audio_cover_strength, c.setting.guidance_scale) for c in work.covers}
        assert len(grid) == len(work.covers) == 20
        assert work.audio_s == 20 * 240
    assert (switch.semantics, blend.semantics) == ("switch", "pipeline")
    assert {c.setting.blend for c in switch.covers} == {"switch"}
    assert {c.setting.blend for c in blend.covers} == {"velocity"}
    alone = [switch.plan(cover) for cover in switch.covers]
    assert sum(plan.evaluations for plan in alone) == 1120
    readings = distinct_readings(alone)
    assert all(guided for _, guided in readings)
    assert 2 * readings.total() <= 682


def test_velocity_blend_asks_for_pairs_and_for_single_velocities() -> None:
    (_, blend) = made("sweep", steps=4)
    readings = distinct_readings([blend.plan(cover) for cover in blend.covers])
    # All read noise first: one pair and one text velocity; from then on each of the twenty is alone, and those of
    # strength 1 ask for no text.
    assert readings == {("text2music", False): 1 + 3 * 16, ("cover", True): 1 + 3 * 20}


def test_the_catalogue_has_mixed_lengths() -> None:
    assert len(CATALOGUE_S) == MAX_TRACKS
    assert (min(CATALOGUE_S), max(CATALOGUE_S)) == (20, 300)
    (real,), (scaled,) = made("catalogue", gpu=True), made("catalogue", tracks=3)
    assert real.audio_s == sum(CATALOGUE_S)
    assert [track.frames for track in scaled.tracks] == [510, 470, 610]
    assert "x 0.1" in scaled.name
    assert len({track.prompt.caption for track in real.tracks}) == 4
    assert len({cover.seed for cover in real.covers}) == 32


def test_lengths_of_module_workloads() -> None:
    assert module_durations(parse_request({"workload": "step"}), gpu=False) == (30.0, 240.0, 600.0)
    assert module_durations(parse_request({"workload": "vae"}), gpu=False) == (10.0,)
    assert module_durations(parse_request({"workload": "vae", "duration_s": 600}), gpu=True) == (600.0,)
