"""Signals whose loudness, peaks, chroma, tempo and timbre are known beforehand."""

import math

import numpy as np
import pyloudnorm
import pytest
import torch
from torch import Tensor

from acestep.constants import SAMPLE_RATE
from pipeline.metrics import harmony, rhythm, sound
from pipeline.metrics.features import Music, extract
from pipeline.metrics.spectrum import half_rate
from tests.pipeline.metrics.material import measure, render, song


def sine(hertz: float, seconds: float = 5.0, dbfs: float = -20.0, phase: float = 0.0) -> Tensor:
    """``[1, n]`` whose peak is at ``dbfs``."""
    t = torch.arange(round(seconds * SAMPLE_RATE), dtype=torch.float64) / SAMPLE_RATE
    return (10 ** (dbfs / 20) * torch.sin(2 * math.pi * hertz * t + phase)).float()[None]


def clicks(bpm: float, seconds: float = 20.0) -> Tensor:
    """Short bursts of noise, ``[1, n]``."""
    burst = torch.randn(2400, generator=torch.Generator().manual_seed(0)) * torch.exp(-torch.arange(2400) / 400)
    wave = torch.zeros(1, round(seconds * SAMPLE_RATE))
    for beat in range(int(seconds * bpm / 60)):
        start = round(beat * 60 / bpm * SAMPLE_RATE)
        wave[0, start : start + 2400] += 0.3 * burst[: wave.shape[1] - start]
    return wave


def music(wave: Tensor) -> Music:
    (features,) = extract([wave])
    assert isinstance(features.music, Music)
    return features.music


def test_loudness_is_that_of_bs1770() -> None:
    # ITU-R BS.1770: a 997 Hz sine at 0 dBFS in one channel reads -3.01 LKFS, in two channels as loud 3.01 more
    assert sound.loudness(sine(997)) == pytest.approx(-23.01, abs=0.05)
    assert sound.loudness(sine(997).expand(2, -1)) == pytest.approx(-20.0, abs=0.05)
    gated = torch.cat([sine(997), torch.zeros(1, 20 * SAMPLE_RATE)], dim=1)
    assert sound.loudness(gated) == pytest.approx(-23.01, abs=0.3)  # silence does not count


@pytest.mark.parametrize("seconds", [0.4, 1.0, 24.0, 30.05, 30.5, 71.37])
def test_loudness_by_the_piece_is_loudness_of_the_whole(seconds: float) -> None:
    wave = render(song(0)).repeat(1, 3)[:, : round(seconds * SAMPLE_RATE)]
    wave[:, 10 * SAMPLE_RATE : 40 * SAMPLE_RATE] *= 0.01  # much of it under the gate
    wave += 0.2  # an offset, by which filters that begin anew would be heard
    whole = pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(wave.T.numpy())
    assert sound.loudness(wave) == pytest.approx(whole, abs=0.01)


def test_the_true_peak_lies_between_the_samples() -> None:
    between = sine(SAMPLE_RATE / 4, dbfs=-6.0, phase=math.pi / 4) * torch.hann_window(5 * SAMPLE_RATE)
    assert 20 * math.log10(between.abs().max()) == pytest.approx(-9.01, abs=0.01)
    assert sound.true_peak(between) == pytest.approx(-6.0, abs=0.02)
    assert sound.true_peak(sine(997)) == pytest.approx(-20.0, abs=0.01)
    louder_samples = torch.cat([sine(997, dbfs=-8.5), between], dim=1)
    assert sound.true_peak(louder_samples) == pytest.approx(-6.0, abs=0.02)


def test_the_true_peak_of_music_misses_nothing_that_oversampling_everything_finds() -> None:
    wave = render(song(0, "metal"))[:, : 4 * SAMPLE_RATE]
    spectrum = torch.fft.rfft(wave.double())
    finer = torch.fft.irfft(spectrum, 4 * wave.shape[1]) * 4  # exact band-limited interpolation, of a loop
    assert sound.true_peak(wave) == pytest.approx(20 * math.log10(finer.abs().max()), abs=0.1)


def test_clipping_and_silence_are_counted() -> None:
    wave = torch.zeros(2, 3 * SAMPLE_RATE)
    wave[:, SAMPLE_RATE : 2 * SAMPLE_RATE] = sine(440, 1.0, dbfs=-12.0)
    wave[0, SAMPLE_RATE : SAMPLE_RATE + 600] = 1.0
    wave[1, SAMPLE_RATE : SAMPLE_RATE + 300] = -1.2
    assert sound.clipped(wave) == pytest.approx(900 / wave.numel())
    found = sound.silences(wave)
    assert found["audio/silence_frac"] == pytest.approx(2 / 3)
    assert found["audio/lead_silence_s"] == found["audio/tail_silence_s"] == pytest.approx(1.0)
    assert sound.silences(sine(440, dbfs=-50.0))["audio/silence_frac"] == 0
    assert sound.silences(sine(440, dbfs=-65.0))["audio/silence_frac"] == 1


def test_flatness_is_one_for_noise_and_zero_for_a_tone() -> None:
    noise = torch.randn(1, 10 * SAMPLE_RATE, generator=torch.Generator().manual_seed(0)) / 10
    flat, pure, played = (
        features.sound["audio/flatness"] for features in extract([noise, sine(440, 10.0), render(song(0))])
    )
    assert flat == pytest.approx(1, abs=0.03)
    assert pure < 1e-3
    assert pure < played < 0.2


def test_half_the_rate_keeps_what_is_below_10_khz_and_nothing_above_13() -> None:
    for hertz, decibels in ((100, 0.0), (1000, 0.0), (10_000, 0.0)):
        level = half_rate(sine(hertz, dbfs=0.0))[0, 1000:-1000].square().mean()
        assert 10 * math.log10(2 * level) == pytest.approx(decibels, abs=0.3)
    assert half_rate(sine(13_500, dbfs=0.0))[0, 1000:-1000].square().mean() < 1e-4
    impulse = torch.zeros(1, 3001)
    impulse[0, 1500] = 1
    halved = half_rate(impulse)
    assert halved.shape == (1, 1501)
    assert int(halved.argmax()) == 750


@pytest.mark.parametrize(("notes", "classes"), [((60, 64, 67), {0, 4, 7}), ((57, 60, 64), {9, 0, 4})])
def test_the_chroma_of_a_chord_is_the_chord(notes: tuple[int, ...], classes: set[int]) -> None:
    chord = sum(sine(440 * 2 ** ((note - 69) / 12)) for note in notes)
    found = music(chord).chroma
    assert found.shape == (12, 126)
    middle = found[:, 10:-10].mean(1)
    assert set(middle.topk(3).indices.tolist()) == classes
    assert middle.topk(4).values[3] < 0.2
    assert found.max() == pytest.approx(1)


def test_the_leading_note_is_the_tune_above_its_chord() -> None:
    chord = sum(sine(440 * 2 ** ((note - 69) / 12), dbfs=-26) for note in (60, 64, 67))
    tune = sine(440 * 2 ** ((74 - 69) / 12), dbfs=-16)
    assert set(music(chord + tune).leading[10:-10].tolist()) == {2}


def test_a_note_is_heard_in_its_own_bin() -> None:
    for note in range(harmony.LOWEST, harmony.HIGHEST + 1, 5):
        wave = sine(440 * 2 ** ((note - 69) / 12))
        energies = harmony.note_energies(half_rate(wave))[0, :, 60]
        assert int(energies.argmax()) + harmony.LOWEST == note


@pytest.mark.parametrize(
    ("source", "cover", "octaves"), [(100, 120, 0.263), (120, 100, -0.263), (75, 150, 0.0), (90, 180, 0.0)]
)
def test_tempo_ratios_are_folded_to_half_an_octave(source: int, cover: int, octaves: float) -> None:
    (found,) = measure(*(lambda a, b: (a, [b]))(*extract([clicks(source), clicks(cover)])))
    assert found.values["rhythm/tempo_ratio_octave"] == pytest.approx(octaves, abs=0.01)


def test_loudness_is_no_timbre_and_another_instrument_is() -> None:
    country, metal = render(song(0)), render(song(0, "metal"))
    struck = country.clone()
    struck[:, SAMPLE_RATE : SAMPLE_RATE + 2400] += 0.8 * torch.randn(
        2400, generator=torch.Generator().manual_seed(0)
    )
    source, *covers = extract([country, country / 10, struck, metal])
    same, once, other = (result.values["timbre/mfcc_distance"] for result in measure(source, covers))
    assert same == pytest.approx(0, abs=0.1)
    assert once < 3  # one loud blow makes all the rest quieter beside it
    assert other > 10


@pytest.mark.parametrize("samples", [0, 24_000, -1234])
def test_a_copy_is_a_copy_whatever_its_delay_loudness_and_sign(samples: int) -> None:
    source = render(song(0))
    heard, copied, cover = extract([source, -0.3 * source.roll(samples, dims=1), render(song(0, "bossa"))])
    copy, made_anew = (result.values["copy/waveform_corr"] for result in measure(heard, [copied, cover]))
    assert copy > 0.98
    assert made_anew < 0.5


def sparse(seed: int) -> Tensor:
    """A few decaying notes at random times, ``[1, n]``."""
    rng = np.random.default_rng(seed)
    count, seconds = rng.integers(2, 12), int(rng.integers(10, 30))
    wave, t = torch.zeros(1, seconds * SAMPLE_RATE), torch.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    for start in rng.uniform(0, seconds - 0.6, count):
        note = 0.3 * torch.sin(2 * math.pi * float(rng.uniform(200, 800)) * t) * torch.exp(-8 * t)
        wave[0, int(start * SAMPLE_RATE) :][: len(t)] += note
    return wave


def test_a_tempo_of_sparse_notes_lies_where_tempi_are_sought() -> None:
    """Away from a peak the parabola's vertex lies anywhere, also below zero, where a ratio has no logarithm."""
    found = [rhythm.tempo(music(sparse(seed)).onsets) for seed in range(25)]
    known = [bpm for bpm in found if bpm is not None]
    assert len(known) > 8
    assert all(rhythm.SLOWEST - 10 < bpm < rhythm.FASTEST + 10 for bpm in known)


def test_channels_that_cancel_are_not_called_silent() -> None:
    wave = torch.sin(torch.arange(3 * SAMPLE_RATE) / 20)
    (features,) = extract([torch.stack((wave, -wave))])
    assert features.music == "silent in mono: its channels cancel"
