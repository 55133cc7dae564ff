"""Five hundred files that a catalogue may hold and should not: cut, flipped, lying, enormous, and no audio at all.

``python -m tests.jobs.fuzz_audio FOLDER`` tries the files that its standard input names, one after the other.
"""

import io
import json
import os
import random
import resource
import struct
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import torch

from acestep.audio.files import encode_audio, load_audio
from acestep.errors import AudioError
from pipeline.catalogue.probe import probe
from tests.audio_files import encoded, joinable, unclosed, with_streams
from tests.conftest import tone

MAX_SECONDS = 600.0
WAV = {"channels": (22, "<H"), "rate": (24, "<I"), "align": (32, "<H"), "bits": (34, "<H"), "data": (40, "<I")}
WAV_VALUES = {
    "channels": (0, 3, 1024, 65535),
    "rate": (0, 1, 7, 999, 768_000, 4_000_000_000, 0xFFFF_FFFF),
    "align": (0, 1, 65535),
    "bits": (0, 1, 13, 255),
    "data": (0, 0xFFFF_FFFF, 0x8000_0000, 3_600 * 48_000 * 4),
}


@dataclass(frozen=True)
class Case:
    """A file of the corpus; ``ends`` is "ok" or "failed" where only one of them is right."""

    name: str
    kind: str
    ends: str = "any"


def _written(samples: np.ndarray, rate: int, container: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=subtype)
    return buffer.getvalue()


def _with_ffmpeg(samples: np.ndarray, container: str, codec: str, **options: str) -> bytes:
    """A file of ``[n, 2]`` at 48 kHz; ``stream`` among the options writes to a pipe that cannot go back."""
    buffer: Any = io.BytesIO()
    target = _Pipe(buffer) if options.pop("stream", "") else buffer
    with av.open(target, "w", format=container, options=options) as output:
        layout = {2: "stereo", 8: "7.1"}[samples.shape[1]]
        stream: Any = output.add_stream(codec, rate=48_000, layout=layout, options=options)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate = 48_000
        context = stream.codec_context
        resampler = av.AudioResampler(context.format, layout, 48_000, stream.frame_size or 1024)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return buffer.getvalue()


class _Pipe:
    """A stream that can only be written to."""

    def __init__(self, buffer: io.BytesIO):
        self.write = buffer.write


def good_files() -> dict[str, bytes]:
    """Short files that are unusual at most; each must be read."""
    music, one = tone(1.5), tone(1.5)[:, :1]
    wave = torch.from_numpy(music.T.copy())
    files = {f"sf.{name.lower()}": _written(music, 48_000, name) for name in ("WAV", "FLAC", "OGG", "MP3", "AIFF")}
    files |= {
        f"sf.{name.lower()}": _written(music, 44_100, name) for name in ("AU", "CAF", "RF64", "W64", "WAVEX")
    }
    files |= {f"ours.{e}": encode_audio(wave, f) for e, f in (("mp3", "mp3"), ("opus", "opus"), ("m4a", "aac"))}
    files |= {
        f"{s}.wav": _written(music, 48_000, "WAV", s) for s in ("PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW")
    }
    files |= {f"{rate}.wav": _written(tone(1.5, rate), rate, "WAV") for rate in (8_000, 44_101, 192_000, 384_000)}
    files |= {f"8ch.{f.lower()}": _written(np.repeat(one, 8, 1), 48_000, f) for f in ("WAV", "FLAC", "OGG")}
    return files | {
        "24.flac": _written(music, 96_000, "FLAC", "PCM_24"),
        "mono.wav": _written(one, 22_050, "WAV"),
        "mono.ogg": _written(one, 44_100, "OGG"),
        "direct_current.wav": _written(np.full((48_000, 2), 0.5, np.float32), 48_000, "WAV"),
        "clipped.wav": _written(50 * music, 48_000, "WAV", "FLOAT"),
        "silent.flac": _written(0 * music, 48_000, "FLAC"),
        "one_sample.wav": _written(music[:1], 48_000, "WAV"),
        "video.webm": _with_ffmpeg(music, "webm", "libopus"),
        "windows.wma": _with_ffmpeg(music, "asf", "wmav2", b="128000"),
        "frames.aac": _with_ffmpeg(music, "adts", "aac"),
        "8ch.m4a": _with_ffmpeg(np.repeat(one, 8, 1), "ipod", "aac"),
        "apple.m4a": _with_ffmpeg(music, "ipod", "alac"),
        "fragments.mp4": _with_ffmpeg(music, "mp4", "aac", movflags="frag_keyframe+empty_moov"),
        "streamed.flac": _with_ffmpeg(music, "flac", "flac", stream="yes"),
        "streamed.wav": _with_ffmpeg(music, "wav", "pcm_s16le", stream="yes"),
        "streamed.ogg": _with_ffmpeg(music, "ogg", "libopus", stream="yes"),
        "streamed.mp3": _with_ffmpeg(music, "mp3", "libmp3lame", stream="yes", write_xing="0", q="2"),
        **{f"joined.{kind}": first + other for kind, (first, _, other) in joinable().items()},
        **{f"unclosed.{f.lower()}": unclosed(_written(music, 48_000, f), 0) for f in ("WAV", "RF64", "W64")},
        "5.1.flac": encoded(np.repeat(one, 6, 1), "flac", "flac", "5.1"),
        "5.1.mka": encoded(np.repeat(one, 6, 1), "matroska", "ac3", "5.1"),
        "two_streams.mka": with_streams([0 * music, music], 1),
        "rubbish_behind.mp3": encode_audio(wave, "mp3") + b"<html>404</html>" * 100,
        "tagged.mp3": b"ID3\4\0\0\0\0\x10\0" + bytes(2048) + encode_audio(wave, "mp3"),
    }


def not_audio(neighbour: str) -> dict[str, bytes]:
    """Other kinds of files, among them playlists that name ``neighbour``, which can be read, and /etc/passwd."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("song.wav", bytes(1 << 20))
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n"
    address = "http://127.0.0.1:9/song.ts"
    sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9998 RTP/AVP 0\n"
    dash = f'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><BaseURL>{address}</BaseURL></Period></MPD>'
    words = {
        "text.mp3": "not audio, only words " * 50,
        "page.flac": "<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "list.m3u8": playlist.format(neighbour),
        "passwd.m3u8": playlist.format("file:///etc/passwd"),
        "network.m3u8": playlist.format(address),
        "list.m3u": f"#EXTM3U\n{address}\n",
        "list.ffconcat": f"ffconcat version 1.0\nfile {neighbour}\n",
        "passwd.wav": "ffconcat version 1.0\nfile /etc/passwd\n",
        "session.sdp": sdp,
        "dash.mpd": dash,
        "list.pls": f"[playlist]\nFile1={address}\n",
        "words.srt": "1\n00:00:00,000 --> 00:00:02,000\nla la la\n",
    }
    rng = random.Random(5)
    return {name: text.encode() for name, text in words.items()} | {
        "empty.wav": b"",
        "archive.ogg": archive.getvalue(),
        "picture.mp3": b"\x89PNG\r\n\x1a\n" + rng.randbytes(500),
        "program.wav": b"\x7fELF" + rng.randbytes(5000),
        "page.pdf": b"%PDF-1.7\n" + rng.randbytes(5000),
        "notes.mid": b"MThd\0\0\0\6\0\1\0\1\0\x60MTrk\0\0\0\4\0\xff\x2f\0",
        "only_riff.wav": b"RIFF",
        "only_ftyp.m4a": b"\0\0\0\x14ftypM4A \0\0\0\0M4A ",
        **{f"noise{k}.wav": rng.randbytes(10 ** (k % 5 + 1)) for k in range(5)},
    }


def lying_headers(files: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Headers with absurd numbers over good content."""
    for field, (place, form) in WAV.items():
        for value in WAV_VALUES[field]:
            yield f"{field}{value}.wav", _patched(files["sf.wav"], place, struct.pack(form, value))
    for size in (0, 0xFFFF_FFFF, 0x8000_0000):  # of the format chunk: nothing, and negative
        yield f"fmt{size}.wav", _patched(files["sf.wav"], 16, struct.pack("<I", size))
    aiff, flac, au = files["sf.aiff"], files["sf.flac"], files["sf.au"]
    common = aiff.index(b"COMM") + 8
    for name, number in (("zero", bytes(10)), ("infinite", b"\x7f\xff" + bytes(8)), ("minus", b"\xc0" * 10)):
        yield f"rate_{name}.aiff", _patched(aiff, common + 8, number)
    for channels in (0, 65535):
        yield f"channels{channels}.aiff", _patched(aiff, common, struct.pack(">H", channels))
        yield f"channels{channels}.au", _patched(au, 20, struct.pack(">I", channels))
    for rate in (0, 1, 0xFFFF_FFFF):
        yield f"rate{rate}.au", _patched(au, 16, struct.pack(">I", rate))
        yield f"rate{rate}.ogg", _patched(files["sf.ogg"], 40, struct.pack("<I", rate))
    for number in (0.0, -1.0, float("nan"), 1e300):
        yield f"rate{number}.caf", _patched(files["sf.caf"], 20, struct.pack(">d", number))
    yield "block0.flac", _patched(flac, 8, bytes(4))
    yield "rate0.flac", _patched(flac, 18, bytes(2))
    yield "hours.flac", _patched(flac, 22, b"\xff\xff\xff\xff")
    yield "channels255.ogg", _patched(files["sf.ogg"], 39, b"\xff")
    atom = files["ours.m4a"].index(b"mdhd")
    yield "timescale0.m4a", _patched(files["ours.m4a"], atom + 16, bytes(4))
    yield "hours.m4a", _patched(files["ours.m4a"], atom + 20, b"\x7f\xff\xff\xff")
    yield "giant_tag.mp3", b"ID3\4\0\0\x7f\x7f\x7f\x7f" + files["ours.mp3"]


def _patched(content: bytes, place: int, new: bytes) -> bytes:
    return content[:place] + new + content[place + len(new) :]


def bombs() -> Iterator[tuple[str, bytes, str]]:
    """Hours of digital silence in little space."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 8_000, 1, format="FLAC") as file:
        for _ in range(120):
            file.write(np.zeros(8_000 * 60, np.int16))
    hours = buffer.getvalue()
    yield "two_hours.flac", hours, "failed"
    yield "two_hours_unsaid.flac", _patched(hours, 21, bytes([hours[21] & 0xF0, 0, 0, 0, 0])), "failed"
    yield "two_hours_as_one_second.flac", _patched(hours, 21, bytes([hours[21] & 0xF0, 0, 0, 0x1F, 0x40])), "any"
    yield "eight_channels.flac", _written(np.zeros((192_000 * 11, 8), np.int16), 192_000, "FLAC"), "ok"
    opus = _written(np.zeros((8_000 * 660, 1), np.float32), 8_000, "OGG", "OPUS")
    yield "eleven_minutes.opus", opus, "failed"


def _mutations(files: dict[str, bytes], rng: random.Random) -> Iterator[tuple[str, str, bytes]]:
    """Endless: good files, each time cut, flipped or mixed anew."""
    number = 0
    while True:
        for name, content in files.items():
            kind = ("cut", "flipped header", "flipped body", "spliced")[number % 4]
            number += 1
            changed = bytearray(content)
            if kind == "cut":
                changed = changed[: rng.randrange(1, len(changed))]
            elif kind == "spliced":
                place, size = rng.randrange(len(changed)), rng.randrange(1, 4000)
                other = rng.choice(list(files.values()))
                changed[place : place + rng.choice((0, size))] = other[:size]
            else:
                reach = min(128, len(changed)) if kind == "flipped header" else len(changed)
                for _ in range(rng.choice((1, 2, 8, 64))):
                    changed[rng.randrange(reach)] ^= 1 << rng.randrange(8)
            yield kind, f"{number:03d}_{name}", bytes(changed)
        number += 1  # the next round gives every file another kind


def write_corpus(folder: Path, count: int = 500, seed: int = 0) -> list[Case]:
    """Write ``count`` files (the same for a seed); those of the fixed kinds come first."""
    folder.mkdir(parents=True)
    rng = random.Random(seed)
    cases: list[Case] = []

    def add(kind: str, name: str, content: bytes, ends: str = "any") -> None:
        cases.append(Case(f"{kind.replace(' ', '_')}-{name}", kind, ends))
        (folder / cases[-1].name).write_bytes(content)

    files = good_files()
    for name, content in files.items():
        add("good", name, content, "ok")
    for name, content in not_audio("good-sf.wav").items():
        add("not audio", name, content, "failed")
    for name, content, ends in bombs():
        add("bomb", name, content, ends)
    for name, content in lying_headers(files):
        add("lying header", name, content)
    for value in (np.nan, np.inf, -np.inf):
        add("not finite", f"{value}.wav", _written(np.full((9, 2), value, "f4"), 48_000, "WAV", "FLOAT"), "failed")
    add("no samples", "none.wav", _written(np.zeros((0, 2), np.float32), 48_000, "WAV"), "failed")
    for true, said in (("sf.wav", "mp3"), ("sf.flac", "wav"), ("ours.m4a", "ogg"), ("ours.opus", "txt")):
        add("wrong extension", f"{true}.{said}", files[true], "ok")
    for name in (
        "ünïcödé 音楽 🎸.wav",
        'it\'s "quoted" $(x) `y`.wav',
        "two\nlines.wav",
        "%20#?&.wav",
        "n" * 240 + ".wav",
    ):
        add("odd name", name, files["sf.wav"], "ok")
    cases += _not_regular(folder)
    mutations = _mutations(files, rng)
    while len(cases) < count:
        add(*next(mutations))
    return cases


def _not_regular(folder: Path) -> list[Case]:
    kind = "not a file"
    os.mkfifo(folder / "pipe.wav")
    (folder / "folder.wav").mkdir()
    (folder / "link.wav").symlink_to("good-sf.wav")
    (folder / "nowhere.wav").symlink_to("gone.wav")
    (folder / "loop.wav").symlink_to("loop.wav")
    (folder / "zeros.wav").symlink_to("/dev/zero")
    with open(folder / "sparse.wav", "wb") as file:
        file.truncate(1 << 40)
    bad = ("pipe", "folder", "nowhere", "loop", "zeros", "sparse", "missing")
    return [Case("link.wav", kind, "ok"), *(Case(f"{name}.wav", kind, "failed") for name in bad)]


def attempt(path: Path) -> dict[str, Any]:
    """What a probe and a full read of one file end in."""
    started = time.perf_counter()
    looked = probe(str(path))
    try:
        if looked.error:
            said = looked.error
        else:
            wave = load_audio(path, MAX_SECONDS)
            said = "" if wave.shape[0] == 2 and bool(wave.isfinite().all()) else f"wrong: {tuple(wave.shape)}"
    except AudioError as error:
        said = str(error)
    except Exception as error:  # what must not happen; told, so that the other files are tried too
        said = f"wrong: {error!r}"
    seconds = time.perf_counter() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"said": said, "seconds": seconds, "peak_mb": peak_mb, "header_s": looked.duration_s}


if __name__ == "__main__":
    for name in sys.stdin.read().split("\0"):
        print(json.dumps({"name": name}), flush=True)  # the last one to be named is to blame for a crash
        print(json.dumps(attempt(Path(sys.argv[1]) / name)), flush=True)
