"""A cover of a song outranks other songs, in whatever genre, and unrelated songs measure nothing."""

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from pipeline.metrics.compute import MeasureResult
from pipeline.metrics.features import Features, extract
from tests.pipeline.metrics.material import Song, measure, render, song

HARMONY, MELODY, STRUCTURE = "harmony/chroma_excess", "melody/salience_excess", "structure/ssm_corr"
ANY_KEY = "harmony/chroma_excess_any_key"

Pairs = dict[tuple[Song, Song], dict[str, float]]


def measured(catalogue: dict[Song, Features], source: Song, covers: Iterable[Song]) -> list[MeasureResult]:
    return measure(catalogue[source], [catalogue[cover] for cover in covers])


@pytest.fixture(scope="session")
def pairs(catalogue: dict[Song, Features]) -> Pairs:
    """Every recording beside every other of its song, and beside those of the songs after it."""
    found: Pairs = {}
    for source in catalogue:
        covers = [cover for cover in catalogue if cover != source and cover.tune >= source.tune]
        for cover, result in zip(covers, measured(catalogue, source, covers), strict=True):
            found[source, cover] = result.values
    return found


def select(pairs: Pairs, name: str, rule: Callable[[Song, Song], bool]) -> Tensor:
    return torch.tensor([values[name] for (source, cover), values in pairs.items() if rule(source, cover)])


def is_cover(source: Song, cover: Song) -> bool:
    return source.tune == cover.tune


def is_same_genre(source: Song, cover: Song) -> bool:
    return source.tune != cover.tune and source.genre == cover.genre


def is_other_genre(source: Song, cover: Song) -> bool:
    return source.tune != cover.tune and source.genre != cover.genre


def auc(right: Tensor, wrong: Tensor) -> float:
    """How often one of ``right`` is above one of ``wrong``."""
    above = right[:, None] - wrong
    return float((above > 0).float().mean() + (above == 0).float().mean() / 2)


def test_covers_outrank_other_songs_even_in_the_same_genre(pairs: Pairs) -> None:
    for name, least in ((HARMONY, 0.95), (ANY_KEY, 0.95), (MELODY, 0.85), (STRUCTURE, 0.85)):
        right = select(pairs, name, is_cover)
        same, other = (auc(right, select(pairs, name, rule)) for rule in (is_same_genre, is_other_genre))
        print(f"\n{name}: AUC {same:.3f} same genre, {other:.3f} other; covers {right.median():.2f}", end="")
        assert same >= least
        assert other >= least


def test_rhythm_follows_the_groove_and_not_the_song(pairs: Pairs) -> None:
    groove = select(pairs, "rhythm/onset_corr", is_same_genre)
    same = auc(select(pairs, "rhythm/onset_corr", is_cover), groove)
    print(f"\nrhythm/onset_corr: AUC {same:.3f} same genre", end="")
    assert same < 0.6  # hardly better than a coin
    assert groove.quantile(0.8) > 0.7


def test_chance_is_zero_for_unrelated_songs(pairs: Pairs) -> None:
    for name in (HARMONY, ANY_KEY, MELODY):
        wrong = select(pairs, name, lambda source, cover: source.tune != cover.tune)
        print(f"\n{name}: chance {wrong.mean():.3f}, 95th percentile {wrong.quantile(0.95):.3f}", end="")
        assert abs(wrong.mean()) < 0.05
        assert wrong.quantile(0.95) < 0.2
    # what the correction is for: without it, strangers seem related
    assert select(pairs, "harmony/chroma_pearson", is_same_genre).mean() > 0.15


def test_the_sound_moves_with_the_genre_and_not_with_the_song(pairs: Pairs) -> None:
    timbre = "timbre/mfcc_distance"
    assert auc(select(pairs, timbre, is_cover), select(pairs, timbre, is_same_genre)) > 0.95


def test_a_result_does_not_depend_on_its_neighbours(catalogue: dict[Song, Features]) -> None:
    source, cover = song(0), song(0, "metal")
    (alone,) = measure(extract([render(source)])[0], extract([render(cover)]))
    (among,) = measured(catalogue, source, [cover])
    assert alone.values == pytest.approx(among.values, abs=1e-4)
