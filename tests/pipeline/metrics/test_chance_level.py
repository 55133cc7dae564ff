"""Chance is measured in the run itself, and a cover is judged against it."""

import json
from dataclasses import asdict

import pytest
import torch

from acestep.constants import SAMPLE_RATE
from pipeline.metrics.chance_level import MIN_PAIRS, ChanceLevel, measure_chance
from pipeline.metrics.features import Features, extract
from pipeline.metrics.verdict import verdict
from tests.conftest import tone
from tests.pipeline.metrics.material import Song, measure, render, song

HARMONY, MELODY, TIMBRE = "harmony/chroma_excess", "melody/salience_excess", "timbre/mfcc_distance"
LOW = {HARMONY: 0.04, MELODY: 0.04, TIMBRE: 25.0, "copy/waveform_corr": 0.1}


@pytest.fixture(scope="module")
def chance(catalogue: dict[Song, Features]) -> ChanceLevel:
    tracks = {
        genre: [(str(s.tune), f) for s, f in catalogue.items() if s.genre == genre]
        for genre in ("country", "bossa")
    }
    return measure_chance(tracks["country"], tracks["bossa"])


def test_chance_is_of_other_tracks_only(chance: ChanceLevel) -> None:
    assert chance.pairs == 6 * 5
    for name in (HARMONY, MELODY, "harmony/chroma_excess_any_key"):
        assert abs(chance.mean[name]) < 0.06
        assert chance.mean[name] < chance.p95[name] < 0.2
    assert chance.p95[TIMBRE] > chance.mean[TIMBRE] > 5


def test_chance_is_kept_as_json(chance: ChanceLevel) -> None:
    assert ChanceLevel(**json.loads(json.dumps(asdict(chance)))) == chance


def test_one_track_alone_has_no_chance_level(catalogue: dict[Song, Features]) -> None:
    features = catalogue[song(0)]
    assert measure_chance([("a", features)], [("a", features)]) == ChanceLevel() == measure_chance([], [])


def test_silent_covers_are_no_chance(catalogue: dict[Song, Features]) -> None:
    (silent,) = extract([torch.zeros(2, 24 * SAMPLE_RATE)])
    assert measure_chance([("a", catalogue[song(0)])], [("b", silent)]) == ChanceLevel()


def test_real_covers_are_ok_other_songs_lost_and_the_source_itself_a_copy(
    catalogue: dict[Song, Features], chance: ChanceLevel
) -> None:
    source, cover, noise = (render(song(0)), render(song(0, "bossa")), torch.randn(2, 24 * SAMPLE_RATE) / 10)
    coded = source + 0.02 * source.std() * torch.randn(source.shape)
    heard, *others = extract([source, cover, noise, coded])
    found = [verdict(result.values, chance)[0] for result in measure(heard, others)]
    assert found == ["ok", "lost", "copy"]


def test_a_song_is_lost_where_harmony_and_melody_are_both_at_chance() -> None:
    chance = ChanceLevel(MIN_PAIRS, {}, {HARMONY: 0.10, MELODY: 0.08})
    assert verdict(LOW, chance) == (
        "lost",
        "harmony/chroma_excess 0.04 (chance 0.10), melody/salience_excess 0.04 (chance 0.08)",
    )
    assert verdict(LOW | {HARMONY: 0.11}, chance)[0] == "ok"
    assert verdict(LOW | {MELODY: 0.09}, chance)[0] == "ok"
    assert verdict(LOW | {HARMONY: 0.09, MELODY: 0.07}, chance)[0] == "lost"


@pytest.mark.parametrize("pairs", [0, MIN_PAIRS - 1])
def test_too_few_pairs_make_no_chance_level_and_it_is_said(pairs: int) -> None:
    few = ChanceLevel(pairs, {}, {HARMONY: 0.9, MELODY: 0.9} if pairs else {})
    found, reason = verdict(LOW, few)
    assert found == "lost"
    assert f"the run has {pairs} unrelated pairs and {MIN_PAIRS} are needed" in reason
    assert verdict(LOW | {HARMONY: 0.06}, few)[0] == "ok"


def test_a_copy_has_the_harmony_and_the_sound_or_the_waveform() -> None:
    assert verdict(LOW | {"copy/waveform_corr": 0.95}, ChanceLevel())[0] == "copy"
    assert verdict(LOW | {HARMONY: 0.95, TIMBRE: 0.5}, ChanceLevel())[0] == "copy"
    assert verdict(LOW | {HARMONY: 0.95}, ChanceLevel())[0] == "ok"
    assert verdict(LOW | {HARMONY: 0.8, TIMBRE: 0.5}, ChanceLevel())[0] == "ok"


def test_what_was_not_measured_is_not_judged() -> None:
    for missing in (HARMONY, MELODY):
        found, reason = verdict(LOW | {missing: None}, ChanceLevel())
        assert found is None
        assert reason == f"{missing} could not be measured"
    assert verdict({}, ChanceLevel())[0] is None


def test_a_source_that_goes_round_in_a_loop_is_not_judged() -> None:
    """Its cover agrees everywhere, so chance agrees as well: nothing is known, and nothing is lost."""
    loop = torch.from_numpy(tone(24.0).T.copy())  # four notes, over and over, once a second
    higher = torch.from_numpy(tone(24.0, pitch_hz=440.0).T.copy())
    source, cover = extract([loop, higher])
    (measured,) = measure(source, [cover])
    assert measured.values[HARMONY] is measured.values[MELODY] is None
    assert "goes round in a short loop" in measured.unmeasured[HARMONY]
    assert measured.values["harmony/chroma_pearson"] > 0.9
    assert verdict(measured.values, ChanceLevel())[0] is None


def test_a_short_cover_is_not_judged_and_makes_no_chance_level(catalogue: dict[Song, Features]) -> None:
    assert verdict(LOW | {"duration_s": 9.0}, ChanceLevel())[0] is None
    assert verdict(LOW | {"duration_s": 11.0}, ChanceLevel())[0] == "lost"
    short = extract([render(song(k))[:, : 8 * SAMPLE_RATE] for k in (0, 1)])
    pairs = list(zip("ab", short, strict=True))
    assert measure_chance(pairs, pairs).pairs == 0


def test_a_cover_without_music_has_lost_the_song(catalogue: dict[Song, Features]) -> None:
    (silent,) = extract([torch.zeros(2, 24 * SAMPLE_RATE)])
    (measured,) = measure(catalogue[song(0)], [silent])
    reasons = [f"{name}: {reason}" for name, reason in measured.unmeasured.items()]
    assert verdict(measured.values | {"unmeasured": reasons}, ChanceLevel()) == ("lost", "the cover is silent")
    (other_way,) = measure(silent, [catalogue[song(0)]])
    reasons = [f"{name}: {reason}" for name, reason in other_way.unmeasured.items()]
    assert verdict(other_way.values | {"unmeasured": reasons}, ChanceLevel())[0] is None
