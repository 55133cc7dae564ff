"""Intervals cover the truth as often as they say, and verdicts are wrong as rarely."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import stats

from pipeline.evaluation.statistics import FEWEST_TRACKS, MAX_GROUPS, interval, mean_within, sign_flip

Draw = Callable[[Generator, tuple[int, int]], NDArray[np.float64]]
SIMULATIONS = 1000

# name: (how tracks are drawn [tracks, simulations], true mean)
POPULATIONS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, shape: rng.normal(0.5, 0.15, shape), 0.5),
    "uniform": (lambda rng, shape: rng.uniform(0, 1, shape), 0.5),
    "skewed": (lambda rng, shape: rng.beta(2, 8, shape), 0.2),
    "three seeds": (lambda rng, s: rng.normal(0.5, 0.15, s) + rng.normal(0, 0.1, (3, *s)).mean(0), 0.5),
}


@pytest.mark.parametrize("tracks", [6, 12, 50])
@pytest.mark.parametrize("population", POPULATIONS)
def test_a_95_percent_interval_covers_the_truth_95_times_in_100(population: str, tracks: int) -> None:
    draw, truth = POPULATIONS[population]
    low, high = interval(draw(np.random.default_rng(tracks), (tracks, SIMULATIONS)))
    covered = np.mean((low <= truth) & (truth <= high))
    assert 0.92 <= covered <= 0.98


def test_lost_covers_among_others_cost_little_coverage() -> None:
    rng = np.random.default_rng(0)
    for tracks in (12, 50):
        shape = (tracks, SIMULATIONS)
        low, high = interval(rng.beta(8, 8, shape) * (rng.random(shape) > 0.2))
        assert 0.92 <= np.mean((low <= 0.4) & (high >= 0.4)) <= 0.98


def test_more_tracks_than_are_resampled_cover_as_well() -> None:
    rng = np.random.default_rng(0)
    tracks = rng.exponential(1.0, (3 * MAX_GROUPS + 7, 300))
    tracks[rng.random(tracks.shape) < 0.3] = np.nan
    low, high = interval(tracks)
    assert 0.92 <= np.mean((low <= 1) & (high >= 1)) <= 0.98
    expected = 2 * 1.96 * np.nanstd(tracks, axis=0) / np.sqrt((~np.isnan(tracks)).sum(0))
    assert np.median((high - low) / expected) == pytest.approx(1, abs=0.05)


def test_few_tracks_and_missing_ones_have_no_interval() -> None:
    tracks = np.random.default_rng(0).random((20, 3))
    tracks[FEWEST_TRACKS - 1 :, 0] = np.nan
    tracks[FEWEST_TRACKS:, 1] = np.nan
    low, high = interval(tracks)
    assert np.isnan(low).tolist() == np.isnan(high).tolist() == [True, False, False]
    # what other columns hold, and rows without a value, are no part of an answer
    alone = interval(tracks[:, 2:])
    assert (low[2], high[2]) == pytest.approx((alone[0][0], alone[1][0]))


def test_equal_tracks_have_an_interval_without_width() -> None:
    low, high = interval(np.full((8, 1), 0.3))
    assert (low[0], high[0]) == pytest.approx((0.3, 0.3))


def test_the_interval_of_one_odd_track_stays_within_the_tracks() -> None:
    low, high = interval(np.array([[0.0]] * 9 + [[0.6]]))
    assert 0 <= low[0] <= 0.06 <= high[0] <= 0.6


def test_one_odd_track_of_seven_may_be_the_rule() -> None:
    # A third of the resamples miss it, and say nothing about how far it reaches; 0.1 is no sum of powers of two,
    # so that what deviates by nothing has a square a little above or below 0.
    _, high = interval(np.array([[0.1]] * 6 + [[0.4]]))
    assert high[0] == pytest.approx(0.4)


def test_signs_are_flipped_as_scipy_does() -> None:
    rng = np.random.default_rng(3)
    differences = rng.normal(0.4, 1, (9, 6))
    p, _ = sign_flip(differences)
    for column, mine in enumerate(p):
        theirs = stats.permutation_test(
            (differences[:, column],),
            lambda x, axis: np.mean(x, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=np.inf,
        )
        assert mine == pytest.approx(theirs.pvalue)


def test_drawn_signs_agree_with_student() -> None:
    differences = np.random.default_rng(5).normal(0.1, 1, (60, 40))
    p, _ = sign_flip(differences)
    assert np.abs(p - stats.ttest_1samp(differences, 0).pvalue).max() < 0.03


def test_no_difference_is_so_clear_that_chance_is_out_of_the_question() -> None:
    p, adjusted = sign_flip(np.ones((60, 1)))
    assert 0 < p[0] == adjusted[0] < 0.001


@pytest.mark.parametrize("tracks", [8, 30])
def test_equal_settings_are_told_apart_5_times_in_100(tracks: int) -> None:
    rng = np.random.default_rng(tracks)
    shape, seeds = (tracks, 500), 3
    song = rng.normal(0, 1, shape)  # each track's own level, the same for both, far above the noise
    a, b = (song + rng.normal(0, 0.2, shape) + rng.normal(0, 0.1, (seeds, *shape)).mean(0) for _ in range(2))
    p, _ = sign_flip(a - b)
    assert 0.02 <= np.mean(p < 0.05) <= 0.08


def test_of_many_equal_pairs_a_verdict_on_any_is_rare() -> None:
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(300):
        settings = rng.normal(0, 1, (10, 1)) + rng.normal(0, 0.2, (10, 6))
        a, b = np.triu_indices(6, 1)
        p, adjusted = sign_flip(settings[:, a] - settings[:, b])
        assert (adjusted >= p).all()
        wrong += (adjusted < 0.05).any()
    assert 0.02 <= wrong / 300 <= 0.08


def test_no_pair_is_clearer_for_all_at_once_than_one_that_stands_out_more() -> None:
    differences = np.array([[1, 2, 1, -3, 0, -3], [2, 0, -1, -2, -1, -3], [-3, 0, 3, -1, -3, -3]], float).T
    of_a_column = differences / np.sqrt((differences**2).sum(0))
    seen = np.abs(of_a_column.sum(0))
    order = np.argsort(-seen)
    signs = np.array(list(product((1, -1), repeat=6)))
    chance = np.abs(signs @ of_a_column)
    steps = [np.mean(chance[:, order[k:]].max(1) >= seen[order[k]] - 1e-9) for k in range(3)]
    assert steps[0] > steps[1]  # or there is nothing to see
    _, adjusted = sign_flip(differences)
    assert adjusted[order] == pytest.approx([steps[0], max(steps[:2]), max(steps)])


def test_a_clear_difference_is_found_among_many_pairs_of_few_tracks() -> None:
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(50):
        settings = rng.normal(0, 1, (10, 1)) + rng.normal(0, 0.2, (10, 12))
        settings[:, 0] += 0.6
        a, b = np.triu_indices(12, 1)
        _, adjusted = sign_flip(settings[:, a] - settings[:, b])
        found += (adjusted[a == 0] < 0.05).mean()
    assert found / 50 > 0.9


def test_too_few_tracks_give_no_verdict_and_no_difference_gives_p_1() -> None:
    differences = np.ones((8, 3))
    differences[FEWEST_TRACKS - 1 :, 0] = np.nan
    differences[:, 1] = 0
    p, adjusted = sign_flip(differences)
    assert np.isnan([p[0], adjusted[0]]).all()
    assert (p[1], adjusted[1]) == (1, 1)
    assert p[2] == pytest.approx(2 / 2**8)


def test_means_within_groups_leave_gaps_out() -> None:
    values = np.array([[1.0, np.nan], [3.0, 5.0], [np.nan, np.nan]])
    found = mean_within(values, np.array([0, 2]))
    np.testing.assert_array_equal(found, [[2.0, 5.0], [np.nan, np.nan]])
