"""Audio in every container, and what is refused."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from acestep import audio
from acestep.errors import AudioError, RequestError
from tests.conftest import tone

WAVE = torch.from_numpy(tone(2.0).T.copy())


@pytest.mark.parametrize("audio_format", audio.FORMATS)
def test_what_is_written_reads_back(audio_format: str) -> None:
    content = audio.encode_audio(WAVE, audio_format)
    back = audio.load_audio(io.BytesIO(content))
    lossless = audio_format in ("wav", "flac", "wav32")
    assert abs(back.shape[1] - WAVE.shape[1]) <= (0 if lossless else 2500)
    if lossless:
        assert (back - WAVE).abs().max() < 2e-4
    else:  # lossy codecs delay and smear: compare loudness and the best-aligned correlation
        n = min(back.shape[1], WAVE.shape[1])
        spectra = torch.fft.rfft(back[0, :n]) * torch.fft.rfft(WAVE[0, :n]).conj()
        peak = torch.fft.irfft(spectra).max() / (back[0, :n].norm() * WAVE[0, :n].norm())
        assert peak > 0.97


def test_bitrate_and_rate_of_mp3() -> None:
    small, large = (audio.encode_audio(WAVE, "mp3", kbps) for kbps in (64, 256))
    assert len(large) > 3 * len(small)
    assert soundfile.info(io.BytesIO(audio.encode_audio(WAVE, "mp3", rate=44_100))).samplerate == 44_100


def test_channels_and_rate(tmp_path: Path) -> None:
    mono = tone(1.0, 44_100)[:, :1]
    soundfile.write(tmp_path / "mono.wav", mono, 44_100, subtype="FLOAT")
    loaded = audio.load_audio(tmp_path / "mono.wav")
    assert loaded.shape == (2, 48_000)
    assert torch.equal(loaded[0], loaded[1])
    many = np.concatenate([tone(1.0), np.ones((48_000, 4), np.float32)], axis=1)
    soundfile.write(tmp_path / "six.wav", many, 48_000, subtype="FLOAT")
    assert torch.equal(audio.load_audio(tmp_path / "six.wav"), torch.from_numpy(tone(1.0).T.copy()))


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_101, 96_000, 192_000])
def test_any_rate_is_resampled_without_a_giant_filter(rate: int) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(1.0, rate), rate, format="WAV", subtype="FLOAT")
    loaded = audio.load_audio(buffer)
    assert abs(loaded.shape[1] - 48_000) <= 64
    n = min(loaded.shape[1], 48_000)
    wanted = torch.from_numpy(tone(1.0).T.copy())
    assert torch.nn.functional.cosine_similarity(loaded[0, :n], wanted[0, :n], dim=0) > 0.97


def test_loud_samples_are_clamped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", 4 * tone(1.0), 48_000, subtype="FLOAT")
    assert audio.load_audio(tmp_path / "loud.wav").abs().max() == 1.0


def _flac(part: slice) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(6.0), 48_000, format="FLAC")
    return buffer.getvalue()[part]


def _wav(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 48_000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"only words " * 100, "cannot be decoded as audio"),
        (_flac(slice(0, 40_000)), "truncated"),
        (_wav(tone(2.0))[:200_000], "truncated: the header promises"),
        (_wav(np.zeros((0, 2), np.float32)), "no samples"),
        (_wav(np.full((480, 2), np.nan, np.float32)), "not finite"),
    ],
    ids=["empty", "text", "truncated flac", "truncated wav", "no samples", "nan"],
)
def test_unusable_content_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        audio.load_audio(io.BytesIO(content))


def test_wav_headers_that_are_wrong_but_complete_are_read() -> None:
    content = bytearray(_wav(tone(1.0)))
    for size in (len(content), 0x7FFF_F024, 0x8000_0024, 0xFFFF_FFFF):
        content[4:8] = size.to_bytes(4, "little")
        assert audio.load_audio(io.BytesIO(bytes(content))).shape[1] == 48_000


def test_long_files_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(AudioError, match=r"2\.0 s is longer than 1 s"):
        audio.load_audio(io.BytesIO(_wav(tone(2.0))), most_seconds=1)


def test_missing_file_names_its_path() -> None:
    with pytest.raises(AudioError, match=r"/nowhere/a\.wav: No such file"):
        audio.load_audio("/nowhere/a.wav")


def test_unknown_format() -> None:
    with pytest.raises(RequestError, match="audio_format 'wma' is unknown; use one of wav"):
        audio.encode_audio(WAVE, "wma")


def test_peak_rule() -> None:
    assert audio.finish(4 * WAVE, normalize=False).abs().max() == 1.0
    assert torch.equal(audio.finish(WAVE / 10, normalize=False), WAVE / 10)
    assert audio.finish(WAVE / 10).abs().max().item() == pytest.approx(10 ** (-1 / 20))
    silence = torch.zeros(2, 100)
    assert torch.equal(audio.finish(silence), silence)


def test_fades() -> None:
    faded = audio.fade(torch.ones(2, 48_000), 0.25, 0.5)
    assert faded[0, 0] == 0
    assert faded[0, 6_000].item() == pytest.approx(0.5, abs=1e-3)
    assert torch.equal(faded[0, 12_000:24_000], torch.ones(12_000))
    assert faded[0, 36_000].item() == pytest.approx(0.5, abs=1e-3)
    assert faded[0, -1] == 0


def test_reference_clip_takes_start_third_and_end() -> None:
    second = torch.arange(60).repeat_interleave(48_000).expand(2, -1).float()
    clip = audio.reference_clip(second)
    assert clip.shape == (2, 30 * 48_000)
    assert clip[0, ::48_000].tolist() == [*range(10), *range(20, 30), *range(50, 60)]
    assert audio.reference_clip(second[:, : 7 * 48_000]).shape == (2, 30 * 48_000)
