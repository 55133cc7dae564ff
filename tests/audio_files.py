"""Files of kinds that a catalogue holds, written here so that no test needs more than PyAV."""

import io
from collections.abc import Sequence
from typing import Any

import av
import numpy as np
import soundfile
from av.stream import Disposition

from tests.conftest import tone


def encoded(
    wave: np.ndarray, container: str, codec: str, layout: str = "", rate: int = 48_000, **options: str
) -> bytes:
    """A file of ``[n, c]``; the layout has to be named for more than two channels. Vorbis is libsndfile's."""
    buffer = io.BytesIO()
    if codec == "vorbis":
        soundfile.write(buffer, wave, rate, format="OGG", subtype="VORBIS")
        return buffer.getvalue()
    with av.open(buffer, "w", format=container, options=options) as output:
        _write(output, wave, codec, layout or {1: "mono", 2: "stereo"}[wave.shape[1]], rate)
    return buffer.getvalue()


def with_streams(waves: Sequence[np.ndarray], default: int) -> bytes:
    """A Matroska file with a FLAC stream for each ``[n, c]``, number ``default`` of which is the default one."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        streams = [_stream(output, wave, "flac", "stereo", 48_000) for wave in waves]
        for number, stream in enumerate(streams):
            stream.disposition = Disposition.default if number == default else Disposition(0)
        for stream, wave in zip(streams, waves, strict=True):
            _fill(output, stream, wave, "stereo", 48_000)
    return buffer.getvalue()


def _write(output: Any, wave: np.ndarray, codec: str, layout: str, rate: int) -> None:
    _fill(output, _stream(output, wave, codec, layout, rate), wave, layout, rate)


def _stream(output: Any, wave: np.ndarray, codec: str, layout: str, rate: int) -> Any:
    return output.add_stream(codec, rate=rate, layout=layout)


def _fill(output: Any, stream: Any, wave: np.ndarray, layout: str, rate: int) -> None:
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(wave, np.float32).reshape(1, -1), format="flt", layout=layout
    )
    frame.sample_rate = rate
    resampler = av.AudioResampler(stream.codec_context.format, layout, rate, stream.frame_size or 1024)
    for piece in (*resampler.resample(frame), *resampler.resample(None)):
        output.mux(stream.encode(piece))
    for packet in stream.encode(None):
        if packet.size or output.format.name == "flac":  # FLAC's last has no sound but the header's numbers
            output.mux(packet)


def joinable() -> dict[str, tuple[bytes, bytes, bytes]]:
    """By its kind: a file, another like it, and a third of another rate and in mono."""
    kinds = {
        "mp3": ("mp3", "libmp3lame", 44_100, 48_000),
        "vorbis.ogg": ("ogg", "vorbis", 44_100, 48_000),
        "opus": ("ogg", "libopus", 48_000, 24_000),
        "flac.ogg": ("ogg", "flac", 44_100, 48_000),
        "flac": ("flac", "flac", 44_100, 48_000),
    }
    return {
        kind: (
            encoded(tone(3.0, rate), container, codec, rate=rate),
            encoded(0.5 * tone(2.0, rate)[:, ::-1], container, codec, rate=rate),
            encoded(tone(2.0, other)[:, :1], container, codec, rate=other),
        )
        for kind, (container, codec, rate, other) in kinds.items()
    }


def unclosed(content: bytes, size: int) -> bytes:
    """A WAV, RF64 or Wave64 file as if its writer had died: ``size`` where the length of the sound stands."""
    changed = bytearray(content)
    if content[:4] == b"riff":
        place = content.rindex(b"data") + 16
        changed[place : place + 8] = (size if size else 24).to_bytes(8, "little")
        changed[16:24] = bytes(8)
    elif content[:4] == b"RIFF":
        place = content.index(b"data") + 4
        changed[place : place + 4] = (size & 0xFFFF_FFFF).to_bytes(4, "little")
        changed[4:8] = bytes(4)
    else:
        place = content.index(b"ds64") + 8
        changed[place : place + 24] = size.to_bytes(8, "little") * 3
    return bytes(changed)
