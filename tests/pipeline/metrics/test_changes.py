"""What happens to the measures when one thing about a cover changes: noise, key, delay, tempo, tune, file."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from acestep.audio.files import resample
from acestep.constants import SAMPLE_RATE
from pipeline.metrics.features import extract
from tests.pipeline.metrics.material import measure, render, song

HARMONY, MELODY, STRUCTURE = "harmony/chroma_excess", "melody/salience_excess", "structure/ssm_corr"
ANY_KEY = "harmony/chroma_excess_any_key"
KEPT = (HARMONY, MELODY, STRUCTURE)


def all_beside(source: Tensor, covers: list[Tensor]) -> list[dict[str, float]]:
    """The measures of covers, all of which there must be."""
    heard, *others = extract([source, *covers])
    found = measure(heard, others)
    assert [result.unmeasured for result in found] == [{}] * len(covers)
    return [result.values for result in found]


def beside(source: Tensor, cover: Tensor) -> dict[str, float]:
    return all_beside(source, [cover])[0]


def test_a_song_is_all_of_itself_and_less_the_more_noise_is_mixed_in() -> None:
    source = render(song(0))
    noise = torch.randn(source.shape, generator=torch.manual_seed(1)) * source.std()
    covers = [source, *(source + gain * noise for gain in (0.3, 1.0, 3.0, 10.0))]
    found = all_beside(source, covers)
    for name in (*KEPT, "rhythm/onset_corr", "copy/waveform_corr"):
        scores = [values[name] for values in found]
        assert scores[0] == pytest.approx(1, abs=1e-4)
        assert scores == sorted(scores, reverse=True), name
    assert found[0]["timbre/mfcc_distance"] == pytest.approx(0, abs=1e-3)
    assert found[0]["align/lag_s"] == found[0]["harmony/key_shift"] == found[0]["rhythm/tempo_ratio_octave"] == 0
    heard, nothing = extract([source, noise])
    (lost,) = measure(heard, [nothing])
    assert all(abs(lost.values[name]) < 0.1 for name in KEPT)
    assert found[-1]["audio/flatness"] > 10 * found[0]["audio/flatness"]


def test_every_score_falls_as_another_song_takes_over() -> None:
    source, other = render(song(0)), render(song(3, "electronic"))
    other = other * source.std() / other.std()
    mixes = [(1 - part) * source + part * other for part in (0.0, 0.25, 0.5, 0.75, 1.0)]
    found = all_beside(source, mixes)
    for name in KEPT:
        scores = [values[name] for values in found]
        assert scores == sorted(scores, reverse=True), name
        assert scores[-1] < 0.3
    distances = [values["timbre/mfcc_distance"] for values in found]
    assert distances == sorted(distances)


@pytest.mark.parametrize("semitones", [1, 5, 10])
def test_a_transposed_cover_is_found_in_its_key(semitones: int) -> None:
    values = beside(render(song(1)), render(replace(song(1, "bossa"), transpose=semitones)))
    plain = beside(render(song(1)), render(song(1, "bossa")))
    assert values["harmony/key_shift"] == semitones
    assert plain["harmony/key_shift"] == 0
    assert values[HARMONY] < 0.3 < plain[HARMONY]
    assert values[ANY_KEY] == pytest.approx(plain[ANY_KEY], abs=0.15)
    assert values[MELODY] == pytest.approx(plain[MELODY], abs=0.2)


@pytest.mark.parametrize("seconds", [-0.8, 0.5, 1.2])
def test_a_delay_is_found_and_costs_nothing(seconds: float) -> None:
    source, cover = render(song(2)), render(song(2, "electronic"))
    samples = round(seconds * SAMPLE_RATE)
    late = cover.roll(samples, dims=1)
    values, plain = beside(source, late), beside(source, cover)
    assert values["align/lag_s"] == pytest.approx(plain["align/lag_s"] + seconds, abs=0.041)
    for name in KEPT:
        assert values[name] == pytest.approx(plain[name], abs=0.06), name
    itself = beside(source, source.roll(samples, dims=1))
    assert itself["copy/waveform_corr"] > 0.98
    assert itself["rhythm/onset_corr"] > 0.9


def test_a_delay_beyond_the_search_is_not_forgiven() -> None:
    source = render(song(2))
    values = beside(source, source.roll(3 * SAMPLE_RATE, dims=1))
    assert values[HARMONY] < 0.3
    assert values[MELODY] < 0.3


def test_a_stretched_cover_is_worth_less() -> None:
    source = render(song(1))
    values = beside(source, render(replace(song(1, "bossa"), stretch=1.03)))
    plain = beside(source, render(song(1, "bossa")))
    for name in (HARMONY, MELODY):
        assert values[name] < 0.9 * plain[name]
    assert values["audio/duration_error_s"] == pytest.approx(0.72, abs=0.001)
    assert values["rhythm/tempo_ratio_octave"] == pytest.approx(-0.0426, abs=0.01)


def test_another_melody_over_the_same_chords_costs_melody_and_not_harmony() -> None:
    true, other = [], []
    for number in range(3):
        covers = [render(replace(song(number, "electronic"), tune=tune)) for tune in (number, number + 1)]
        for found, values in zip((true, other), all_beside(render(song(number)), covers), strict=True):
            found.append(values)
    left = {name: sum(v[name] for v in other) / sum(v[name] for v in true) for name in KEPT}
    print(f"\nleft under another melody: {left}")
    assert left[MELODY] < 0.25
    assert left[HARMONY] > 0.5
    assert left[STRUCTURE] > 0.5


def test_a_stuck_loop_repeats_itself_more_than_a_song() -> None:
    source = render(song(2))
    bar = source[:, : 2 * SAMPLE_RATE]
    values = beside(source, bar.repeat(1, 12))
    assert values["structure/repetition_p90"] > 0.99
    assert beside(source, source)["structure/repetition_p90"] < 0.97


def test_the_rate_and_the_channels_of_a_file_do_not_matter() -> None:
    source = render(song(0))
    cover = render(song(0, "bossa"))
    plain = beside(source, cover)
    cd = resample(resample(cover, SAMPLE_RATE, 44_100), 44_100)
    mono = cover.mean(0, keepdim=True)
    for other in (beside(source, cd), beside(source, mono)):
        for name in (*KEPT, "rhythm/onset_corr", "timbre/mfcc_distance"):
            assert other[name] == pytest.approx(plain[name], abs=0.02 * max(1, abs(plain[name]))), name
