"""Previews are short, small, equally loud and cut at the same place."""

import io

import av
import numpy as np
import pyloudnorm
import pytest
import torch
from torch import Tensor

from acestep.audio.files import load_audio
from acestep.errors import AudioError
from pipeline.report.audio_clips import excerpt_start, peaks, preview
from tests.pipeline.report.covers import RATE, music


def heard(content: bytes) -> Tensor:
    return load_audio(io.BytesIO(content))


def lufs(wave: Tensor) -> float:
    return pyloudnorm.Meter(RATE).integrated_loudness(wave[0].numpy().astype(np.float64))


def test_a_preview_is_twelve_seconds_of_mono_opus_at_32_kbit() -> None:
    content = preview(music("song", 20.0), 3.0)
    with av.open(io.BytesIO(content)) as file:
        (stream,) = file.streams.audio
        assert (stream.codec_context.name, stream.codec_context.layout.name) == ("opus", "mono")
    assert heard(content).shape == (2, 12 * RATE)
    assert 11 * 4000 < len(content) < 13 * 4000


def test_previews_are_equally_loud_whatever_the_level() -> None:
    song = music("song", 14.0)
    for gain in (1.0, 0.03):
        assert lufs(heard(preview(gain * song, 0.0))) == pytest.approx(-23, abs=1.0)


def test_a_preview_with_high_peaks_stays_under_full_scale() -> None:
    clicks = torch.zeros(2, 4 * RATE)
    clicks[:, :: RATE // 2] = 1.0
    assert heard(preview(clicks, 0.0)).abs().max() < 1.0


def test_the_preview_is_the_part_that_was_asked_for() -> None:
    t = torch.arange(6 * RATE) / RATE
    wave = torch.sin(2 * torch.pi * torch.where(t < 3, 400.0, 1200.0) * t).expand(2, -1)
    for start_s, hertz in ((0.0, 400), (3.0, 1200)):
        spectrum = torch.fft.rfft(heard(preview(wave, start_s, 2.0))[0]).abs()
        assert float(spectrum.argmax()) / 2 == pytest.approx(hertz, abs=1)


def test_a_preview_fades_in_and_out() -> None:
    wave = torch.ones(2, 3 * RATE) * torch.sin(torch.arange(3 * RATE) * 0.05)
    sound = heard(preview(wave, 0.5, 2.0))[0].abs()
    middle = sound[RATE : RATE + 4800].max()
    assert sound[:96].max() < 0.6 * middle
    assert sound[-96:].max() < 0.6 * middle


def test_silence_and_a_very_short_wave_have_previews() -> None:
    assert heard(preview(torch.zeros(2, RATE), 0.0)).abs().max() < 1e-3
    assert heard(preview(music("song", 0.1), 0.0)).shape[1] / RATE == pytest.approx(0.1, abs=0.01)


def test_the_excerpt_begins_a_third_into_a_track_and_at_the_start_of_a_short_one() -> None:
    assert excerpt_start(60.0, 12.0) == 20.0
    assert excerpt_start(18.0, 12.0) == 6.0
    assert excerpt_start(17.0, 12.0) == 0.0
    assert excerpt_start(5.0, 12.0) == 0.0


def test_a_wave_that_ends_before_the_excerpt_is_refused() -> None:
    for function in (preview, peaks):
        with pytest.raises(AudioError, match=r"lasts 2.0 s, and the excerpt begins at 4.0 s"):
            function(music("song", 2.0), 4.0)


def test_peaks_outline_the_excerpt() -> None:
    wave = torch.zeros(2, 4 * RATE)
    wave[:, RATE + 100] = 0.5  # in the first tenth of the excerpt
    wave[:, 2 * RATE + 100] = -0.25  # in the sixth
    assert peaks(wave, 1.0, 2.0, points=10) == [1.0, 0, 0, 0, 0, 0.5, 0, 0, 0, 0]
    assert peaks(wave[:, : int(1.5 * RATE)], 1.0, 2.0, points=10) == [1.0] + 9 * [0.0]
    assert peaks(torch.zeros(2, RATE), 0.0, 1.0, points=3) == [0.0, 0.0, 0.0]
