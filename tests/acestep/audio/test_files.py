"""Audio in every container, and what is refused."""

import io
import os
import socket
import time
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from acestep.audio import files as audio
from acestep.audio.decoding import header_seconds
from acestep.errors import AudioError, RequestError
from tests.conftest import tone

WAVE = torch.from_numpy(tone(2.0).T.copy())


def test_the_same_samples_give_the_same_file() -> None:
    files = {audio_format: audio.encode_audio(WAVE, audio_format) for audio_format in audio.FORMATS}
    time.sleep(1.1)  # some formats would write the time, in seconds
    for audio_format, content in files.items():
        assert audio.encode_audio(WAVE, audio_format) == content, audio_format


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


def test_mono_is_doubled_and_rates_are_resampled(tmp_path: Path) -> None:
    mono = tone(1.0, 44_100)[:, :1]
    soundfile.write(tmp_path / "mono.wav", mono, 44_100, subtype="FLOAT")
    loaded = audio.load_audio(tmp_path / "mono.wav")
    assert loaded.shape == (2, 48_000)
    assert torch.equal(loaded[0], loaded[1])


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


def _container(name: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(2.0), 48_000, format=name)
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


ENCODED = {
    name: encode()
    for name, encode in {
        "wav": lambda: _container("WAV"),
        "rf64": lambda: _container("RF64"),
        "w64": lambda: _container("W64"),
        "aiff": lambda: _container("AIFF"),
        "au": lambda: _container("AU"),
        "caf": lambda: _container("CAF"),
        "flac": lambda: _container("FLAC"),
        "vorbis": lambda: _container("OGG"),
        "mp3": lambda: audio.encode_audio(WAVE, "mp3"),
        "opus": lambda: audio.encode_audio(WAVE, "opus"),
        "aac": lambda: audio.encode_audio(WAVE, "aac"),
    }.items()
}


@pytest.mark.parametrize("name", ENCODED)
def test_a_cut_file_is_truncated_in_every_container(name: str) -> None:
    content = ENCODED[name]
    assert abs(audio.load_audio(io.BytesIO(content)).shape[1] - 96_000) < 2500
    for share in (0.96, 0.6, 0.3):
        with pytest.raises(AudioError, match="truncated"):
            audio.load_audio(io.BytesIO(content[: int(share * len(content))]))


def test_ogg_without_an_end_is_read_if_its_last_page_is_whole() -> None:
    content = ENCODED["opus"]
    last_page = content.rfind(b"OggS")
    assert 20_000 < audio.load_audio(io.BytesIO(content[:last_page])).shape[1] < 96_000


def test_opus_lies_where_its_source_does_from_beginning_to_end() -> None:
    wave = torch.from_numpy(tone(25.0).T.copy()) + 0.02 * torch.randn(2, 25 * 48_000)
    back = audio.load_audio(io.BytesIO(audio.encode_audio(wave, "opus")))
    assert back.shape == wave.shape
    for start in range(0, 24 * 48_000, 4 * 48_000):  # libsndfile is read by blocks of eleven seconds
        mine, other = (torch.fft.rfft(w[0, start : start + 48_000], 96_000) for w in (wave, back))
        assert torch.fft.irfft(mine.conj() * other).argmax() == 0


class Pipe(io.RawIOBase):
    """Takes bytes and cannot go back."""

    def __init__(self) -> None:
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, piece: bytes) -> int:
        self.content += bytes(piece)
        return len(piece)


def piped(wave: np.ndarray, codec: str, container: str, options: dict[str, str]) -> bytes:
    """``wave`` ``[n, 2]`` as FFmpeg writes it into a pipe, where it can add nothing to the header afterwards."""
    pipe = Pipe()
    with av.open(pipe, "w", format=container, container_options=options) as output:
        stream = output.add_stream(codec, rate=48_000, layout="stereo", options=options)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.T), format="fltp", layout="stereo")
        frame.sample_rate = 48_000
        resampler = av.AudioResampler(format=stream.codec_context.format, frame_size=1152)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return pipe.content


def test_files_of_unknown_length_are_read_to_their_end(tmp_path: Path) -> None:
    """Written into a pipe, or of variable bit rate and without a count: libsndfile stops where it guesses."""
    wave = tone(12.0)
    wave[: 48_000 * 2] = 0  # the first frames are small, so a guess from them is far off
    vbr = {"write_xing": "0", "flags": "+qscale", "global_quality": str(2 * 118)}
    for name, codec, options in (("a.flac", "flac", {}), ("a.mp3", "libmp3lame", vbr)):
        (tmp_path / name).write_bytes(piped(wave, codec, name[2:], options))
        loaded = audio.load_audio(tmp_path / name, max_seconds=13)
        assert abs(loaded.shape[1] - 12 * 48_000) < 3000
        assert loaded[:, -20_000:].abs().max() > 0.01
        with open(tmp_path / name, "rb") as file:
            assert header_seconds(file) is None
        with pytest.raises(AudioError, match="is longer than 5 s"):
            audio.load_audio(tmp_path / name, max_seconds=5)


def test_a_playlist_opens_neither_files_nor_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write("neighbour.wav", tone(1.0), 48_000)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/song.ts"
        playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n"
        session = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9998 RTP/AVP 0\n"
        for text in ("ffconcat version 1.0\nfile neighbour.wav\n", playlist.format(address), session):
            started = time.monotonic()
            with pytest.raises(AudioError, match="cannot be decoded as audio"):
                audio.load_audio(io.BytesIO(text.encode()))
            assert header_seconds(io.BytesIO(text.encode())) is None
            assert time.monotonic() - started < 2  # a session that is listened for takes 20 s
        with pytest.raises(TimeoutError):
            server.accept()


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (tmp_path / "pipe.wav", tmp_path, Path("/dev/zero")):
        with pytest.raises(AudioError, match="not a regular file"):
            audio.load_audio(path)
    with pytest.raises(AudioError, match="null byte"):
        audio.load_audio("a\0b.wav")


@pytest.mark.parametrize("rate", [1, 999, 500_000, 2_000_000_000])
def test_absurd_rates_are_refused(rate: int) -> None:
    content = bytearray(_wav(tone(0.1)))
    content[24:28] = rate.to_bytes(4, "little")
    with pytest.raises(AudioError, match=f"a sample rate of {rate} Hz is not between 1000 and 384000"):
        audio.load_audio(io.BytesIO(bytes(content)))


def test_long_files_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(AudioError, match=r"2\.0 s is longer than 1 s"):
        audio.load_audio(io.BytesIO(_wav(tone(2.0))), max_seconds=1)


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
