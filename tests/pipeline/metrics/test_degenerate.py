"""Recordings that are broken, empty of music or very long: a defined value, or none and the reason."""

import math
import time

import pytest
import torch
from torch import Tensor

from acestep.constants import SAMPLE_RATE
from acestep.errors import RequestError
from pipeline.metrics.compute import BESIDE_SOURCE, DEFAULT_GROUP, MeasureResult
from pipeline.metrics.features import extract
from tests.pipeline.metrics.material import measure, render, song


def beside(source: Tensor, cover: Tensor) -> MeasureResult:
    """One cover measured; what is None has a reason, and nothing else has, or is NaN."""
    (heard,), (played,) = extract([source]), extract([cover])
    (found,) = measure(heard, [played])
    assert tuple(found.values) == DEFAULT_GROUP
    assert {name for name, value in found.values.items() if value is None} == found.unmeasured.keys()
    assert all(math.isfinite(value) for value in found.values.values() if value is not None)
    assert all(found.unmeasured.values())
    return found


@pytest.fixture
def music() -> Tensor:
    return render(song(0))


def test_a_silent_cover_has_no_music(music: Tensor) -> None:
    for silence in (torch.zeros_like(music), torch.full_like(music, 0.25), 1e-5 * torch.randn(music.shape)):
        found = beside(music, silence)
        for name in (*BESIDE_SOURCE, "audio/flatness"):
            assert "silent" in found.unmeasured[name]
    found = beside(music, torch.zeros_like(music))
    assert found.values["audio/silence_frac"] == 1
    assert {"audio/lufs", "audio/true_peak_dbfs", "audio/lead_silence_s"} < found.unmeasured.keys()


def test_a_silent_source_is_named_as_the_reason(music: Tensor) -> None:
    found = beside(torch.zeros_like(music), music)
    assert found.unmeasured == dict.fromkeys(BESIDE_SOURCE, "the source is silent")
    assert found.values["audio/lufs"] < -10


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_sample_that_is_not_finite_ruins_everything_and_is_said(music: Tensor, value: float) -> None:
    broken = music.clone()
    broken[1, 12345] = value
    found = beside(music, broken)
    assert found.values["audio/finite"] is False
    assert found.values["audio/duration_error_s"] == 0
    assert len(found.unmeasured) == len(DEFAULT_GROUP) - 2
    assert all("NaN or infinite" in reason for reason in found.unmeasured.values())
    alone, among = extract([music])[0], extract([broken, music])[1]
    assert measure(alone, [among])[0].values["harmony/chroma_excess"] == pytest.approx(1)


def test_one_sample_and_one_second_are_too_short_to_compare(music: Tensor) -> None:
    for samples in (1, 2, 100, SAMPLE_RATE):
        found = beside(music, 0.5 * torch.ones(2, samples) if samples < 3 else music[:, -samples:])
        assert set(BESIDE_SOURCE) <= found.unmeasured.keys()
        assert found.values["audio/duration_error_s"] == pytest.approx(samples / SAMPLE_RATE - 24)
        assert found.values["audio/clipped_frac"] == 0
    assert found.unmeasured["harmony/chroma_excess"] == "the cover is shorter than 2 s"
    assert found.values["audio/lufs"] is not None
    with pytest.raises(RequestError, match=r"\[2, 0\] has no samples"):
        extract([music[:, :0]])


def test_two_seconds_are_enough(music: Tensor) -> None:
    found = beside(music[:, : 2 * SAMPLE_RATE], music[:, : 2 * SAMPLE_RATE])
    assert found.values["harmony/chroma_pearson"] == pytest.approx(1)


def test_covers_of_another_length_are_compared_where_both_play(music: Tensor) -> None:
    for cover in (music[:, : 15 * SAMPLE_RATE], torch.cat([music, music], dim=1)):
        found = beside(music, cover)
        for name in ("harmony/chroma_excess", "melody/salience_excess", "rhythm/onset_corr", "copy/waveform_corr"):
            assert found.values[name] == pytest.approx(1, abs=0.02), name


def test_pauses_in_the_source_are_no_loss(music: Tensor) -> None:
    paused = music.clone()
    paused[:, 8 * SAMPLE_RATE : 12 * SAMPLE_RATE] = 0
    found = beside(paused, paused)
    assert found.values["harmony/chroma_excess"] == pytest.approx(1)
    assert found.values["melody/salience_excess"] == pytest.approx(1)
    hiss = 1e-5 * torch.randn(2, *music.shape, generator=torch.Generator().manual_seed(0))
    found = beside(paused + hiss[0], paused + hiss[1])
    assert found.values["harmony/chroma_excess"] == pytest.approx(1, abs=0.02)
    assert beside(music, paused).values["harmony/chroma_pearson"] == pytest.approx(1 - 4 / 24, abs=0.05)


def test_one_sound_held_throughout_has_no_harmony_to_tell_apart() -> None:
    t = torch.arange(10 * SAMPLE_RATE) / SAMPLE_RATE
    drone = (0.1 * torch.sin(2 * math.pi * 440 * t)).expand(2, -1)
    found = beside(drone, drone)
    assert found.values["harmony/chroma_pearson"] == pytest.approx(1)
    for name in ("harmony/chroma_excess", "melody/salience_excess"):
        assert "goes round in a short loop" in found.unmeasured[name]


def test_a_clipped_cover_is_said_to_be_and_still_compared(music: Tensor) -> None:
    loud = (10 * music).clamp(-1, 1)
    found = beside(music, loud)
    assert found.unmeasured == {}
    assert found.values["audio/clipped_frac"] > 0.01
    assert found.values["audio/true_peak_dbfs"] > 0
    assert found.values["harmony/chroma_excess"] > 0.8


@pytest.mark.slow
def test_ten_minutes_are_measured_at_a_third_of_a_second_a_minute(music: Tensor) -> None:
    source = music.repeat(1, 25)
    cover = render(song(0, "metal")).repeat(1, 25)
    (heard,) = extract([source])
    started = time.process_time()
    (found,) = measure(heard, extract([cover]))
    cost = (time.process_time() - started) / 10
    print(f"\n{cost:.3f} s of work for a minute of audio")
    assert found.unmeasured == {}
    assert found.values["harmony/chroma_excess"] > 0.3
    assert cost < 1.0  # 0.31 on an idle core
