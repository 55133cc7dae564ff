"""Sources are heard as a player plays them, and what is left out of them is said."""

import io
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from acestep.audio import joined_files as joined
from acestep.audio.decoding import decode, header_seconds
from acestep.audio.ffmpeg import DEFAULT_LAYOUTS
from acestep.audio.files import load_audio, read_audio
from acestep.audio.mpeg_frames import parse_frame_header
from acestep.audio.source_notes import (
    DATA_LEFT_OUT,
    DOWNMIXED,
    JOINED,
    NEARLY_SILENT,
    SILENT,
    STREAMS_LEFT_OUT,
)
from acestep.errors import AudioError, TooLongError
from tests.audio_files import encoded, joinable, unclosed, with_streams
from tests.conftest import tone

JOINABLE = joinable()
HALF = np.float32(np.sqrt(0.5))  # -3 dB, of the centre and of the surrounds in ITU-R BS.775
LAYOUTS = {
    "3.0": ({"FL": 0, "FR": 1, "FC": 2}, 0x7),
    "quad": ({"FL": 0, "FR": 1, "BL": 2, "BR": 3}, 0x33),
    "5.1": ({"FL": 0, "FR": 1, "FC": 2, "LFE": 3, "BL": 4, "BR": 5}, 0x3F),
    "7.1": ({"FL": 0, "FR": 1, "FC": 2, "LFE": 3, "BL": 4, "BR": 5, "SL": 6, "SR": 7}, 0x63F),
}
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg command")


def kinds(content: bytes) -> list[str]:
    return [note.kind for note in read_audio(io.BytesIO(content)).notes]


def played(content: bytes, folder: Path, *options: str) -> torch.Tensor:
    """What ffmpeg's command makes of a file, ``[2, n]`` at 48 kHz."""
    (folder / "file").write_bytes(content)
    form = ("-f", "f32le", "-ac", "2", "-ar", "48000", "-")
    command = ["ffmpeg", "-v", "quiet", "-i", str(folder / "file"), *options, *form]
    done = subprocess.run(command, capture_output=True, check=False)
    return torch.from_numpy(np.frombuffer(done.stdout, np.float32).reshape(-1, 2).T.copy())


def pieces(content: bytes) -> list[tuple[np.ndarray, int]]:
    return decode(io.BytesIO(content), None)[0]


@pytest.mark.parametrize("other", [1, 2], ids=["alike", "other rate, mono"])
@pytest.mark.parametrize("kind", JOINABLE)
def test_joined_files_are_read_one_after_the_other(kind: str, other: int) -> None:
    first, second = JOINABLE[kind][0], JOINABLE[kind][other]
    joined = first + second
    alone = [pieces(content)[0] for content in (first, second)]
    if other == 1:
        ((samples, _),) = pieces(joined)
        assert np.array_equal(samples, np.concatenate([samples for samples, _ in alone], axis=1))
    else:
        found = pieces(joined)
        assert [rate for _, rate in found] == [rate for _, rate in alone]
        assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(found, alone, strict=True))
    sound = read_audio(io.BytesIO(joined))
    assert [note.kind for note in sound.notes] == [JOINED]
    assert abs(sound.wave.shape[1] - 5 * 48_000) <= 2
    assert header_seconds(io.BytesIO(joined)) == pytest.approx(5.0, abs=1e-3)
    with pytest.raises(TooLongError):
        read_audio(io.BytesIO(joined), max_seconds=4)


@needs_ffmpeg
@pytest.mark.parametrize("kind", JOINABLE)
def test_ffmpeg_plays_joined_files_whole_too(kind: str, tmp_path: Path) -> None:
    content = JOINABLE[kind][0] + JOINABLE[kind][1]
    theirs, ours = played(content, tmp_path), load_audio(io.BytesIO(content))
    assert abs(theirs.shape[1] - ours.shape[1]) < 0.3 * 48_000  # at the seam: a delay, of FLAC some frames less
    for start, length in ((24_000, 48_000), (3 * 48_000 + 12_000, 72_000)):
        mine = ours[0, start : start + length]
        window = theirs[0, start - 20_000 : start + length + 20_000]
        spectra = torch.fft.rfft(window) * torch.fft.rfft(mine, len(window)).conj()
        assert torch.fft.irfft(spectra, len(window)).max() / mine.square().sum() > 0.9


def test_tags_between_joined_files_are_no_sound() -> None:
    first, second, _ = JOINABLE["mp3"]
    tags = b"TAG" + bytes(125)
    ape = b"APETAGEX" + struct.pack("<IIII", 2000, 2000, 0, 0xA000_0000) + bytes(8) + b"\xff\xfb" * 1000
    content = first + tags + second + ape + tags + second
    ((samples, _),) = pieces(content)
    assert np.array_equal(samples, np.concatenate([pieces(c)[0][0] for c in (first, second, second)], axis=1))
    assert kinds(content) == [JOINED]


def test_frames_beyond_the_count_of_the_first_are_read() -> None:
    first = encoded(tone(3.0), "mp3", "libmp3lame")
    second = encoded(tone(2.0), "mp3", "libmp3lame", write_xing="0", id3v2_version="0")
    wave = load_audio(io.BytesIO(first + second))
    assert abs(wave.shape[1] - 5 * 48_000) < 4_000
    assert wave[:, -24_000:].abs().max() > 0.1
    assert header_seconds(io.BytesIO(first + second)) is None
    assert header_seconds(io.BytesIO(first)) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("name", "kept"), [("zeros", []), ("apev1", []), ("lyrics", []), ("rubbish", [DATA_LEFT_OUT])]
)
def test_frames_without_a_count_are_read_whatever_stands_around_them(name: str, kept: list[str]) -> None:
    content = encoded(tone(3.0), "mp3", "libmp3lame", write_xing="0", id3v2_version="0")
    item = b"\5\0\0\0\0\0\0\0Title\0hello"
    lyrics = b"LYRICSBEGININD0000211LYR00005hello"
    added = {
        "zeros": bytes(5000),
        "apev1": item + b"APETAGEX" + struct.pack("<IIII", 1000, len(item) + 32, 1, 0) + bytes(8),
        "lyrics": lyrics + b"%06d" % len(lyrics) + b"LYRICS200" + b"TAG" + bytes(125),
        "rubbish": b"<html>404 not found</html>" * 100,
    }[name]
    ((alone, _),) = pieces(content)
    ((samples, _),) = pieces(content + added)
    assert np.array_equal(samples, alone)
    assert kinds(content + added) == kept
    places = [place for place in range(len(content)) if content.startswith(b"\xff\xfb", place)]
    middle = places[len(places) // 2]
    torn = content[:middle] + b"StreamTitle='x';" * 10 + content[middle:]
    ((samples, _),) = pieces(torn)
    assert np.array_equal(samples, alone)
    assert kinds(torn) == [DATA_LEFT_OUT]


@pytest.mark.parametrize("kind", ["aac", "mp3", "mp3 with a count"])
def test_tags_within_a_stream_change_nothing(kind: str) -> None:
    wave = tone(6.0) + 0.1 * np.random.default_rng(0).standard_normal((288_000, 2)).astype(np.float32)
    container, codec = ("adts", "aac") if kind == "aac" else ("mp3", "libmp3lame")
    options = {} if kind == "aac" else {"write_xing": "01"["count" in kind], "id3v2_version": "0"}
    content = encoded(wave, container, codec, **options)
    private = b"com.apple.streaming.transportStreamTimestamp\0" + bytes(8)
    frame = b"PRIV" + len(private).to_bytes(4, "big") + bytes(2) + private
    tag = b"ID3\4\0\0\0\0\0" + bytes([len(frame)]) + frame
    tagged, place, count = b"", 0, 0
    while header := parse_frame_header(content[place : place + 6]):
        tagged += (b"" if count % 40 else tag) + content[place : place + header.size]
        place, count = place + header.size, count + 1
    assert place == len(content)
    assert tagged.count(tag) > 5
    sound = read_audio(io.BytesIO(tagged))
    assert torch.equal(sound.wave, load_audio(io.BytesIO(content)))
    assert not sound.notes


@pytest.mark.parametrize("kind", JOINABLE)
@pytest.mark.parametrize("other", [1, 2], ids=["alike", "other rate, mono"])
def test_a_first_part_that_was_cut_off_is_refused_as_it_is_alone(kind: str, other: int) -> None:
    first, second = JOINABLE[kind][0], JOINABLE[kind][other]
    for cut in (len(first) // 3, len(first) // 2, len(first) // 2 + 1):
        for content in (first[:cut], first[:cut] + second):
            with pytest.raises(AudioError, match="truncated"):
                read_audio(io.BytesIO(content))


@pytest.mark.parametrize("tagged", [False, True])
def test_a_frame_that_was_cut_off_swallows_no_header(tagged: bool) -> None:
    options = {} if tagged else {"id3v2_version": "0"}
    first = encoded(tone(3.0), "mp3", "libmp3lame", **options)
    second = encoded(tone(5.0), "mp3", "libmp3lame", **options)
    for cut in range(len(first) // 2, len(first) // 2 + 500, 29):
        with pytest.raises(AudioError, match="truncated"):
            read_audio(io.BytesIO(first[:cut] + second))
    without_count = encoded(tone(3.0), "mp3", "libmp3lame", write_xing="0", id3v2_version="0")
    sound = read_audio(io.BytesIO(without_count[: len(without_count) // 2 + 99] + second))
    assert {note.kind for note in sound.notes} == {JOINED, DATA_LEFT_OUT}
    assert torch.equal(sound.wave[:, -240_000:], load_audio(io.BytesIO(second)))


def test_a_file_of_too_many_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined, "MAX_PARTS", 3)
    for name, (content, _, _) in JOINABLE.items():
        assert kinds(content * 3) == [JOINED], name
        with pytest.raises(AudioError, match="more than 3 files"):
            read_audio(io.BytesIO(content * 4))
        assert header_seconds(io.BytesIO(content * 4)) is None


@pytest.mark.parametrize("count", [0, 50])
def test_a_count_that_is_too_small_cuts_nothing_off(count: int) -> None:
    content = bytearray(encoded(tone(3.0), "mp3", "libmp3lame"))
    mark = max(content.find(b"Xing"), content.find(b"Info"))
    content[mark + 8 : mark + 12] = count.to_bytes(4, "big")
    assert abs(load_audio(io.BytesIO(bytes(content))).shape[1] - 3 * 48_000) < 4_000


def test_the_first_block_of_cut_vorbis_and_of_mp3_in_wav_is_no_truncation() -> None:
    music = encoded(tone(4.0), "ogg", "vorbis")
    pages = [place for place in range(len(music)) if music.startswith(b"OggS", place)]
    without_a_page = music[: pages[2]] + music[pages[3] :]
    assert len(pages) > 5
    assert 1.0 < load_audio(io.BytesIO(without_a_page)).shape[1] / 48_000 < 4.0
    in_wav = encoded(tone(3.0), "wav", "libmp3lame")
    assert abs(load_audio(io.BytesIO(in_wav)).shape[1] - 3 * 48_000) < 4_000


def test_what_stands_behind_the_sound_is_a_note_unless_it_is_a_tag() -> None:
    wave = tone(1.0)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, 48_000, format="WAV")
    files = {
        "wav": buffer.getvalue(),
        "mp3": JOINABLE["mp3"][0],
        "vorbis": JOINABLE["vorbis.ogg"][0],
        "m4a": encoded(wave, "ipod", "aac"),
        "mka": with_streams([wave], 0),
    }
    rubbish = b"<html>404 not found</html>" * 100
    for name, content in files.items():
        alone = load_audio(io.BytesIO(content))
        assert kinds(content) == [], name
        assert kinds(content + rubbish) == [DATA_LEFT_OUT], name
        assert kinds(content + bytes(1000)) == [], name
        assert torch.equal(load_audio(io.BytesIO(content + rubbish)), alone), name
    assert kinds(files["wav"] + files["wav"]) == [DATA_LEFT_OUT]  # players stop after the first
    assert kinds(files["wav"] + b"LIST\x08\0\0\0INFOabcd" + b"id3 \x04\0\0\0abcd") == []
    assert kinds(files["mp3"] + b"TAG" + bytes(125)) == []


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("seconds", [0.05, 2.0])
def test_what_stands_behind_flac_is_a_note_however_little_it_is(subtype: str, seconds: float) -> None:
    random = np.random.default_rng(0)
    buffer = io.BytesIO()
    wave = tone(seconds) + 0.01 * random.standard_normal((round(48_000 * seconds), 2))
    soundfile.write(buffer, wave, 48_000, format="FLAC", subtype=subtype)
    tag = b"ID3\4\0\0\0\0\0\x0a" + bytes(10)
    for start in (b"", tag):
        content = start + buffer.getvalue()
        alone = load_audio(io.BytesIO(content))
        for silent in (b"", bytes(300), bytes(20_000), b"TAG" + bytes(range(125))):
            assert kinds(content + silent) == []
        for size in (1, 120, 5_000, 120_000):
            sound = read_audio(io.BytesIO(content + random.bytes(size)))
            assert torch.equal(sound.wave, alone)
            assert [note.kind for note in sound.notes] == [DATA_LEFT_OUT]
            said = re.fullmatch("up to (\\d+) bytes .*", sound.notes[0].text)
            assert said
            assert size <= int(said[1]) <= size + len(content)


@pytest.mark.parametrize("container", ["flac", "wav"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_channels_are_mixed_by_their_layout(layout: str, container: str, tmp_path: Path) -> None:
    places, mask = LAYOUTS[layout]
    wave = 0.05 * np.random.default_rng(0).standard_normal((24_000, len(places))).astype(np.float32)
    content = encoded(wave, container, {"flac": "flac", "wav": "pcm_s16le"}[container], layout)
    if container == "wav":
        assert struct.unpack("<I", content[40:44]) == (mask,)
    stored = soundfile.read(io.BytesIO(content), dtype="float32")[0]
    wanted = []
    for side in "LR":
        own = [stored[:, places[name]] for name in (f"B{side}", f"S{side}") if name in places]
        centre = [stored[:, places["FC"]]] if "FC" in places else []
        wanted.append(stored[:, places[f"F{side}"]] + HALF * np.sum([*own, *centre], axis=0))
    sound = read_audio(io.BytesIO(content))
    assert torch.allclose(sound.wave, torch.from_numpy(np.stack(wanted)), atol=1e-6)
    assert [note.kind for note in sound.notes] == [DOWNMIXED]
    if shutil.which("ffmpeg"):
        assert torch.equal(played(content, tmp_path), sound.wave)


@needs_ffmpeg
@pytest.mark.parametrize("channels", range(3, 9))
@pytest.mark.parametrize("container", ["WAV", "WAVEX", "FLAC", "AIFF", "CAF", "W64", "RF64", "OGG"])
def test_the_mix_is_that_of_ffmpeg(container: str, channels: int, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    wave = 0.05 * np.random.default_rng(channels).standard_normal((9_600, channels))
    soundfile.write(buffer, wave, 48_000, format=container)
    ours, theirs = load_audio(io.BytesIO(buffer.getvalue())), played(buffer.getvalue(), tmp_path)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-6  # two versions of FFmpeg round Vorbis differently


def test_a_loud_mix_is_scaled_and_not_clipped() -> None:
    wave = np.repeat(0.9 * tone(1.0)[:, :1] / np.abs(tone(1.0)[:, 0]).max(), 6, axis=1)
    sound = read_audio(io.BytesIO(encoded(wave, "flac", "flac", "5.1")))
    assert sound.wave.abs().max() == pytest.approx(1.0)
    straight = torch.from_numpy(wave[:, 0].copy())
    assert torch.nn.functional.cosine_similarity(sound.wave[0], straight, dim=0) > 0.99999
    assert [note.kind for note in sound.notes] == [DOWNMIXED, DOWNMIXED]


@pytest.mark.parametrize("channels", DEFAULT_LAYOUTS)
def test_channels_without_a_layout_are_in_the_default_one_and_the_note_says_so(channels: int) -> None:
    wave = 0.05 * np.random.default_rng(0).standard_normal((4_800, channels)).astype(np.float32)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, 48_000, format="WAV", subtype="FLOAT")
    layout = DEFAULT_LAYOUTS[channels]
    found = read_audio(io.BytesIO(buffer.getvalue()))
    named = read_audio(io.BytesIO(encoded(wave, "wav", "pcm_f32le", layout)))
    assert torch.equal(found.wave, named.wave)
    assert [note.kind for note in (*found.notes, *named.notes)] == [DOWNMIXED] * 2
    assert f"{channels} channels without a layout" in found.notes[0].text
    assert f"default layout for {channels} channels ({layout})" in found.notes[0].text
    assert f"{channels} channels ({layout})" in named.notes[0].text
    assert "default" not in named.notes[0].text


def test_a_number_of_channels_without_a_default_layout_is_refused() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.repeat(tone(1.0)[:, :1], 9, axis=1), 48_000, format="WAV")
    with pytest.raises(AudioError, match="no layout of its 9 channels"):
        load_audio(io.BytesIO(buffer.getvalue()))


def test_of_several_streams_the_default_one_is_taken() -> None:
    one, two = tone(1.0), 0.25 * tone(1.0)[:, ::-1]
    for default in (0, 1):
        sound = read_audio(io.BytesIO(with_streams([one, two], default)))
        wanted = torch.from_numpy(np.ascontiguousarray((one, two)[default].T))
        assert (sound.wave - wanted).abs().max() < 1e-4
        assert [note.kind for note in sound.notes] == [STREAMS_LEFT_OUT]
        assert f"number {default + 1} is taken" in sound.notes[0].text


@pytest.mark.parametrize("size", [0, 0xFFFF_FFFF_FFFF_FFFF, 0x7FFF_FFFF_FFFF_FFFF])
@pytest.mark.parametrize("container", ["WAV", "RF64", "BW64", "W64"])
def test_a_file_that_was_never_closed_is_read_to_its_end(container: str, size: int) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(2.0), 48_000, format=container.replace("BW", "RF"), subtype="PCM_16")
    content = buffer.getvalue()
    if container == "BW64":
        content = b"BW64" + content[4:]
    open_ended = unclosed(content, size)
    assert open_ended != content
    sound = read_audio(io.BytesIO(open_ended))
    assert torch.equal(sound.wave, load_audio(io.BytesIO(content)))
    assert not sound.notes
    assert header_seconds(io.BytesIO(open_ended)) == pytest.approx(2.0)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        *(
            ("WAV", kind)
            for kind in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM")
        ),
        *((kind, "PCM_16") for kind in ("FLAC", "AIFF", "AU", "CAF", "RF64", "W64", "WAVEX")),
        *(("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")),
    ],
)
def test_ordinary_files_are_read_by_libsndfile_to_the_bit(container: str, subtype: str, channels: int) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.5 * tone(2.0, 44_100)[:, :channels], 44_100, format=container, subtype=subtype)
    stored, rate = soundfile.read(io.BytesIO(buffer.getvalue()), dtype="float32", always_2d=True)
    ((samples, found_rate),) = pieces(buffer.getvalue())
    assert found_rate == rate
    assert np.array_equal(samples, stored.T)
    assert kinds(buffer.getvalue()) == []


def test_joined_adts_of_another_rate_is_read_whole() -> None:
    content = b"".join(
        encoded(tone(2.0, rate)[:, :channels], "adts", "aac", rate=rate)
        for rate, channels in ((44_100, 2), (48_000, 1))
    )
    assert [rate for _, rate in pieces(content)] == [44_100, 48_000]
    assert abs(load_audio(io.BytesIO(content)).shape[1] - 4 * 48_000) < 8_000


def test_silence_and_what_is_next_to_it() -> None:
    noise = np.random.default_rng(0).standard_normal((96_000, 2))
    for level, wanted in ((0.0, [SILENT]), (3e-5, [NEARLY_SILENT]), (1e-3, [])):
        buffer = io.BytesIO()
        soundfile.write(buffer, level * noise, 48_000, format="FLAC", subtype="PCM_24")
        assert kinds(buffer.getvalue()) == wanted


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfb\x90\x00" * 150_000,
        b"\xff" * 1_500_000,
        b"ID3\4\0\0\0\0\0\0" * 150_000,
        b"fLaC\0\0\0\x22" * 150_000,
        (b"OggS\0\2" + bytes(20) + b"\0" + b"OggS\0\0" + bytes(20) + b"\0") * 30_000,
        b"APETAGEX" + b"\xff" * 1_500_000,
    ],
    ids=["headers", "ones", "tags", "flac marks", "links", "ape"],
)
def test_marks_without_sound_are_refused_in_time(content: bytes) -> None:
    with pytest.raises(AudioError):
        read_audio(io.BytesIO(content), 600)
