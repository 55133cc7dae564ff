"""The search finds the best cell of surfaces whose best cell is known, for a part of the grid's covers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acestep.errors import RequestError
from pipeline.catalogue.manifest import Track, read_manifest
from pipeline.evaluation.tuning import SearchSpace, Trial, TuningResult, tune
from pipeline.evaluation.tuning_trials import Evaluate
from pipeline.storage.store import open_store
from pipeline.workflows.specs import RestyleJob
from pipeline.workflows.tune import SAMPLE, _seeds, write_sample
from tests.pipeline.evaluation.response_surface import Surface, is_near

TRACKS = tuple(f"track{k}" for k in range(12))
SEEDS = (0, 1)
FULL = SearchSpace()
TURBO = SearchSpace(guidances=(7.0,))
# Far from where the search begins, and with other best guidances at other strengths.
SHAPES: dict[str, dict[str, float]] = {
    "weak": {},
    "strong": {"turning": 0.6, "leaving": 0.85, "guidance": 5.0},
    "ridge": {"tilt": 16.0, "width": 3.0, "guidance": 8.0},
    "corner": {"turning": 0.8, "leaving": 1.1, "guidance": 13.0, "width": 8.0, "tilt": 0.0},
}


def search(
    surface: Surface, space: SearchSpace = FULL, tracks: Sequence[str] = TRACKS, seeds: Sequence[int] = SEEDS
) -> tuple[TuningResult, list[str]]:
    said: list[str] = []
    return tune(space, tracks, seeds, surface, said.append), said


def found_near(shape: str, times: int, space: SearchSpace = FULL) -> float:
    """Share of searches that end within a king's move of the optimum."""
    near = 0
    for seed in range(times):
        surface = Surface(seed=seed, **SHAPES[shape])
        found, _ = search(surface, space)
        assert found.generations == len(surface.asked) <= math.ceil(0.3 * found.full_grid)
        near += is_near(space, (found.strength, found.guidance), surface.optimum(space, TRACKS))
    return near / times


def test_the_optimum_or_a_neighbour_is_found_in_95_of_100_searches() -> None:
    assert found_near("weak", 100) >= 0.95


@pytest.mark.parametrize("shape", ["strong", "ridge", "corner"])
def test_other_surfaces_are_searched_as_well(shape: str) -> None:
    assert found_near(shape, 25) >= 0.9


def test_a_model_without_guidance_is_searched_along_strength() -> None:
    assert found_near("weak", 50, TURBO) >= 0.95
    assert found_near("corner", 25, TURBO) >= 0.9


def test_the_surfaces_have_their_optimum_away_from_the_baseline() -> None:
    for shape in SHAPES:
        optimum = Surface(**SHAPES[shape]).optimum(SearchSpace(), TRACKS)
        assert not is_near(SearchSpace(), optimum, (0.5, 8.0)), shape


@pytest.mark.parametrize("sample", [(1, 1), (3, 1), (6, 1), (8, 3)])
@pytest.mark.parametrize(
    "space", [SearchSpace(), SearchSpace((0.2, 0.5), (7.0, 9.0)), SearchSpace((0.3,), (3.0, 5.0, 9.0))]
)
def test_no_cover_is_made_twice_and_no_budget_exceeded(space: SearchSpace, sample: tuple[int, int]) -> None:
    tracks, seeds = TRACKS[: sample[0]], range(sample[1])
    surface = Surface(noise=0.2)
    found, _ = search(surface, space, tracks, seeds)
    assert len(set(surface.asked)) == len(surface.asked) == found.generations
    assert found.full_grid == space.cells * len(tracks) * len(seeds)
    assert found.generations <= math.ceil(0.3 * found.full_grid)
    assert surface.calls == len(found.rounds) <= 6
    assert sum(round_.generations for round_ in found.rounds) == found.generations
    assert {(t.audio_cover_strength, t.guidance_scale) for t in surface.asked} >= {
        (found.strength, found.guidance)
    }


def test_all_settings_of_a_round_are_heard_on_the_same_covers() -> None:
    surface = Surface()
    search(surface)
    heard: dict[tuple[float, float], list[tuple[str, int]]] = {}
    for trial in surface.asked:
        heard.setdefault((trial.audio_cover_strength, trial.guidance_scale), []).append(
            (trial.track_id, trial.seed)
        )
    longest = max(heard.values(), key=len)
    assert all(units == longest[: len(units)] for units in heard.values())
    assert len({track for track, _ in longest[: len(TRACKS)]}) == len(TRACKS)  # tracks before seeds


def test_the_mean_and_its_interval_are_those_of_the_winner() -> None:
    scores: dict[Trial, float | None] = {}
    surface = Surface()

    def evaluate(trials: Sequence[Trial]) -> list[float | None]:
        found = surface(trials)
        scores.update(zip(trials, found, strict=True))
        return found

    found = tune(SearchSpace(), TRACKS, SEEDS, evaluate, lambda line: None)
    winner = (found.strength, found.guidance)
    own = [value or 0.0 for t, value in scores.items() if (t.audio_cover_strength, t.guidance_scale) == winner]
    assert len(own) == len(TRACKS) * len(SEEDS)
    assert found.mean == pytest.approx(sum(own) / len(own))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.mean < found.high
    assert winner not in found.alternatives


def test_a_setting_does_not_win_by_failing() -> None:
    surface = Surface(noise=0.0, luck=0.0)
    optimum = surface.optimum(SearchSpace(), TRACKS)

    def fails_there(trials: Sequence[Trial]) -> list[float | None]:
        scores = surface(trials)
        at = [(trial.audio_cover_strength, trial.guidance_scale) == optimum for trial in trials]
        return [
            None if there and trial.seed == 0 else score
            for there, trial, score in zip(at, trials, scores, strict=True)
        ]

    found = tune(SearchSpace(), TRACKS, SEEDS, fails_there, lambda line: None)
    assert (found.strength, found.guidance) != optimum


def exactly(score: Callable[[int, int], float]) -> Evaluate:
    """Covers that score what strength and guidance say, in steps from the baseline, and nothing else."""

    def evaluate(trials: Sequence[Trial]) -> list[float | None]:
        return [score(*steps(t.audio_cover_strength, t.guidance_scale)) for t in trials]

    return evaluate


def steps(strength: float, guidance: float) -> tuple[int, int]:
    return FULL.strengths.index(strength) - 4, FULL.guidances.index(guidance) - 3


def found_at(evaluate: Evaluate) -> tuple[int, int]:
    found = tune(FULL, TRACKS, SEEDS, evaluate, lambda line: None)
    return steps(found.strength, found.guidance)


def test_a_better_guidance_may_have_its_best_strength_elsewhere() -> None:
    # best at strength +2 with the guidance of the baseline, and two steps lower with the best one
    assert found_at(exactly(lambda s, g: 0.9 - 0.01 * (s - 2 + g) ** 2 - 0.05 * (g - 2) ** 2)) == (0, 2)


def test_a_step_along_both_at_once_is_tried() -> None:
    # worse along either alone
    assert found_at(exactly(lambda s, g: 0.9 - 0.1 * (s - g) ** 2 - 0.02 * (s + g - 2) ** 2)) == (1, 1)


def test_tracks_of_very_different_level_are_compared_track_by_track() -> None:
    for order in range(10):
        levels = np.random.default_rng(order).permutation([0.0, 0.6] * (len(TRACKS) // 2))
        level = dict(zip(TRACKS, levels, strict=True))

        def evaluate(trials: Sequence[Trial], level: dict[str, float] = level) -> list[float | None]:
            at = [steps(trial.audio_cover_strength, trial.guidance_scale) for trial in trials]
            own = [0.4 - 0.004 * (s + 2) ** 2 - 0.003 * (g - 1) ** 2 for s, g in at]
            return [level[trial.track_id] + max(0, value) for trial, value in zip(trials, own, strict=True)]

        assert found_at(evaluate) == (-2, 1)


def test_equal_settings_are_named_as_alternatives() -> None:
    found = tune(FULL, TRACKS, SEEDS, lambda trials: [0.5] * len(trials), lambda line: None)
    assert len(found.rounds[-1].cells) == 6
    assert {*found.alternatives} == {*found.rounds[-1].cells} - {(found.strength, found.guidance)}
    assert found.mean == found.low == found.high == 0.5


def test_the_last_round_is_of_those_that_may_be_best_and_of_no_other() -> None:
    plateau = {(0, 0), (1, 0), (0, 1)}
    found = tune(FULL, TRACKS, SEEDS, exactly(lambda s, g: 0.5 if (s, g) in plateau else 0.3), lambda line: None)
    assert {steps(*cell) for cell in found.rounds[-1].cells} == plateau
    assert {steps(*cell) for cell in (*found.alternatives, (found.strength, found.guidance))} == plateau
    assert len(found.alternatives) == len(plateau) - 1


def test_what_all_covers_tell_apart_is_no_alternative() -> None:
    def evaluate(trials: Sequence[Trial]) -> list[float | None]:
        at = [(steps(trial.audio_cover_strength, trial.guidance_scale), trial.seed) for trial in trials]
        return [0.5 if cell == (0, 0) or (cell, seed) == ((0, 3), SEEDS[0]) else 0.3 for cell, seed in at]

    found = tune(FULL, TRACKS, SEEDS, evaluate, lambda line: None)
    assert steps(found.strength, found.guidance) == (0, 0)
    assert {steps(*cell) for cell in found.rounds[-1].cells} == {(0, 0), (0, 3)}
    assert found.alternatives == ()


def test_a_catalogue_listed_by_album_is_not_searched_on_its_first_album() -> None:
    albums = [f"first{k}" for k in range(8)] + [f"other{k}" for k in range(16)]
    best = {"first": 4, "other": -3}

    def evaluate(trials: Sequence[Trial]) -> list[float | None]:
        at = [(steps(t.audio_cover_strength, t.guidance_scale), best[t.track_id[:5]]) for t in trials]
        return [0.9 - 0.1 * abs(s - there) - 0.05 * abs(g) for (s, g), there in at]

    found = tune(FULL, albums, (0,), evaluate, lambda line: None, budget=0.15)
    assert found.rounds[0].covers < 8
    assert steps(found.strength, found.guidance) == (-3, 0)


def test_the_reasoning_is_told_step_by_step() -> None:
    _, said = search(Surface())
    assert said[0] == "12 tracks x 2 seeds, at most 504 covers of the 1680 of the full grid"
    assert said[2] == "from the baseline 0.5 / 8, all strengths: 10 settings, 15 covers of each (150 new)"
    assert ", +0." in said[3]
    assert " against 0.5 / 8 (p = 0.0" in said[3]
    assert said[4].startswith("dropped, the worse half: ")
    assert any(line.startswith("settled on 0.3 / ") for line in said)
    _, said = search(Surface(), tracks=TRACKS[:4])
    assert any("too few tracks for a verdict" in line for line in said)
    assert said[-1].startswith("no verdict under 6 tracks against ")
    assert "told apart" not in " ".join(said)


def test_what_cannot_be_tuned_is_refused() -> None:
    def never(trials: Sequence[Trial]) -> list[float | None]:
        raise AssertionError("asked for covers")

    for tracks, seeds, space, budget, message in (
        ((), (0,), SearchSpace(), 0.3, "no tracks"),
        (("a", "a"), (0,), SearchSpace(), 0.3, "lists a twice"),
        (("a",), (), SearchSpace(), 0.3, "no seeds"),
        (("a",), (0,), TURBO, 0.3, "a budget of 0.3 is 3 covers, too few to try 10 strengths once"),
        (("a",), (0,), SearchSpace(), 0.0, "a budget of 0"),
        (("a",), (0,), SearchSpace(), 1.5, "up to 1"),
    ):
        with pytest.raises(RequestError, match=message):
            tune(space, tracks, seeds, never, lambda line: None, budget)
    with pytest.raises(RequestError, match="rising"):
        SearchSpace(strengths=(0.5, 0.3))
    with pytest.raises(ValueError, match="zip"):
        tune(SearchSpace(), TRACKS, SEEDS, lambda trials: [0.5], lambda line: None)


def test_a_sample_holds_the_tracks_that_were_drawn_whatever_the_manifest(tmp_path: Path) -> None:
    """Ids of floats, blank rows, another delimiter: the sample's rows are the catalogue's."""
    (tmp_path / "tracks.csv").write_text(
        "track_id;source;caption;bpm;seed;isrc\n"
        "7.0;a.wav;rock, loud;nan;3;x\n;;;;;\n8.0;b.wav;y;90;;\n9;c.wav;too;few\n"
    )
    job = RestyleJob(str(tmp_path / "tracks.csv"), str(tmp_path / "out"), {"seed": 1}, manifest_columns=("isrc",))
    output = open_store(str(tmp_path / "out"))
    assert sorted(write_sample(job, 5, output)) == ["7", "8"]
    sample = [
        row for row in read_manifest(str(tmp_path / "out" / SAMPLE), own=("isrc",)) if isinstance(row, Track)
    ]
    whole = [row for row in read_manifest(job.manifest, own=("isrc",)) if isinstance(row, Track)]
    assert sample == [replace(row, overrides={}) for row in whole]


def test_a_random_seed_is_drawn_once_for_all_of_a_tuning(tmp_path: Path) -> None:
    said: list[str] = []
    job = RestyleJob(str(tmp_path / "tracks.csv"), str(tmp_path / "out"), cover={"seed": -1})
    seeds = _seeds(job, 3, said.append)
    assert seeds == _seeds(job, 3, said.append)
    assert seeds.start >= 0
    assert str(seeds.start) in said[0]
    assert _seeds(replace(job, cover={"seed": 5}), 3, said.append) == range(5, 8)
    assert len(said) == 2
