"""Read audio files as 48 kHz stereo; normalize, fade and encode covers.

Legend: n samples at 48 kHz.
"""

import io
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import av
import numpy as np
import soundfile
import torch
import torchaudio.functional
from torch import Tensor

from acestep.audio.decoding import check_samples, decode
from acestep.audio.regular_files import NotAFileError, open_regular
from acestep.audio.source_notes import SILENCE_PEAK, SourceNote
from acestep.constants import SAMPLE_RATE
from acestep.errors import AudioError, RequestError
from acestep.runtime.threads import serial_ops

FORMATS = ("wav", "flac", "mp3", "opus", "aac", "wav32")
EXTENSIONS = {"aac": "m4a", "wav32": "wav"}
REFERENCE_SECONDS = 30
MAX_FILTER_TAPS = 50_000_000

_SUBTYPES = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "wav32": ("WAV", "FLOAT")}
_CODECS = {"mp3": ("mp3", "libmp3lame"), "opus": ("ogg", "libopus"), "aac": ("ipod", "aac")}


@dataclass(frozen=True)
class DecodedAudio:
    """A decoded file: waveform ``[2, n]`` at 48 kHz, and notes."""

    wave: Tensor
    notes: tuple[SourceNote, ...]


def load_audio(file: str | Path | BinaryIO, max_seconds: float | None = None, clip: bool = True) -> Tensor:
    """The waveform of ``read_audio``, without notes."""
    return read_audio(file, max_seconds, clip).wave


def read_audio(file: str | Path | BinaryIO, max_seconds: float | None = None, clip: bool = True) -> DecodedAudio:
    """Decode a file or an open binary stream to ``[2, n]`` fp32 at 48 kHz.

    Mono is duplicated, more than two channels are mixed to stereo by their layout, other rates are resampled
    (sinc, Hann window).

    Args:
        max_seconds: refuse longer files.
        clip: clamp to [-1, 1], as the model expects; lossy and float files exceed it.

    Raises:
        TooLongError: longer than ``max_seconds``.
        AudioError: empty, damaged, truncated, not audio, or not finite.
    """
    if isinstance(file, str | Path):
        try:
            with open(open_regular(file), "rb") as stream:
                return read_audio(stream, max_seconds, clip)
        except NotAFileError as error:
            raise AudioError("unreadable_audio", str(error), where=file) from error
        except (OSError, ValueError) as error:  # ValueError: an invalid file name
            raise AudioError(
                "unreadable_audio", str(getattr(error, "strerror", None) or error), where=file
            ) from error
    if file.seek(0, io.SEEK_END) == 0:
        raise AudioError("unreadable_audio", "empty file (0 bytes)")
    pieces, notes = decode(file, max_seconds)
    check_samples([samples for samples, _ in pieces])
    waves = []
    while pieces:
        samples, rate = pieces.pop(0)
        wave = torch.from_numpy(samples)
        wave = resample(wave.expand(2, -1) if len(wave) == 1 else wave, rate)
        waves.append(wave.clamp(-1.0, 1.0) if clip else wave)
    return DecodedAudio(waves[0].contiguous() if len(waves) == 1 else torch.cat(waves, dim=1), tuple(notes))


def resample(wave: Tensor, rate: int, to: int = SAMPLE_RATE) -> Tensor:
    """Resample ``[2, n]`` from ``rate`` to ``to`` Hz by torchaudio's sinc-Hann filter, as the reference does.

    The filter's size grows with the product of the rates over their greatest common divisor. For a rate such as
    44101 Hz it would need gigabytes, so FFmpeg's resampler is used instead.
    """
    if rate == to:
        return wave
    common = math.gcd(rate, to)
    if (rate // common) * (to // common) <= MAX_FILTER_TAPS:
        with serial_ops():
            return torchaudio.functional.resample(wave, rate, to)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.numpy()), format="fltp", layout="stereo")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=to)
    pieces = [piece.to_ndarray() for piece in (*resampler.resample(frame), *resampler.resample(None))]
    return torch.from_numpy(np.concatenate(pieces, axis=1))


def is_silent(wave: Tensor) -> bool:
    """Whether all samples are below 1e-6 in magnitude."""
    return bool(wave.abs().max() < SILENCE_PEAK)


def reference_clip(wave: Tensor, pick: str = "fixed", seed: int = 0) -> Tensor:
    """Select the part of a timbre reference ``[2, n]`` to encode: three pieces of 10 s, or all of it.

    A reference shorter than 30 s is repeated.

    Args:
        pick: "fixed": at the start, at one third and at the end (diffusers' rule). "random": at a random offset in
            each third (upstream's rule, with ``seed``). "full": the whole reference.

    Returns:
        ``[2, 1440000]``, or ``wave`` for "full".
    """
    if pick == "full":
        return wave
    clip_samples = REFERENCE_SECONDS * SAMPLE_RATE
    piece = clip_samples // 3
    wave = wave.repeat(1, -(-clip_samples // wave.shape[1])) if wave.shape[1] < clip_samples else wave
    length = wave.shape[1]
    third = length // 3
    starts = [0, third, length - piece]
    if pick == "random":
        rng = random.Random(seed)
        starts = [k * third + rng.randint(0, max(0, third - piece)) for k in range(3)]
    return torch.cat([wave[:, start : start + piece] for start in starts], dim=1)


def finish(wave: Tensor, normalize: bool = True, peak_db: float = -1.0) -> Tensor:
    """Scale ``[2, n]`` into [-1, 1] and, if ``normalize`` and not silent, its peak to ``peak_db`` dBFS."""
    peak = wave.abs().max()
    if peak > 1:
        wave, peak = wave / peak, peak.new_tensor(1.0)
    if normalize and peak >= SILENCE_PEAK:
        wave = wave * (10 ** (peak_db / 20) / peak)
    return wave


def fade(wave: Tensor, in_s: float, out_s: float) -> Tensor:
    """Linear fades over the first ``in_s`` and the last ``out_s`` seconds."""
    length = wave.shape[1]
    head, tail = (min(int(seconds * SAMPLE_RATE), length) for seconds in (in_s, out_s))
    ramp = torch.ones(length)
    ramp[:head] *= torch.linspace(0, 1, head)
    ramp[length - tail :] *= torch.linspace(1, 0, tail)
    return wave * ramp


def encode_audio(wave: Tensor, audio_format: str, bitrate_kbps: int = 128, rate: int = SAMPLE_RATE) -> bytes:
    """Encode ``[2, n]`` in one of ``FORMATS``; wav and flac are 16 bit, wav32 is float.

    Args:
        bitrate_kbps: bit rate of mp3, opus and aac.
        rate: sample rate of the file in Hz (opus: only 48000).

    Raises:
        RequestError: the format is unknown.
        MemoryError: the file does not fit in memory.
    """
    if audio_format not in FORMATS:
        raise RequestError("unknown_value", field="audio_format", value=audio_format, allowed=FORMATS)
    wave = resample(wave, SAMPLE_RATE, rate)
    buffer = io.BytesIO()
    if audio_format in _SUBTYPES:
        container, subtype = _SUBTYPES[audio_format]
        try:
            soundfile.write(buffer, wave.T.numpy(), rate, format=container, subtype=subtype)
        except (
            AssertionError
        ) as error:  # soundfile asserts a complete write; a buffer fails only for lack of memory
            raise MemoryError(f"no memory for an {audio_format} file of {wave.shape[1]} samples") from error
        return _undated(buffer.getvalue())
    container, codec = _CODECS[audio_format]
    # Without bitexact, Ogg streams have random serial numbers, so files would not be reproducible.
    with av.open(buffer, "w", format=container, options={"fflags": "+bitexact"}) as output:
        stream = cast(
            av.AudioStream, output.add_stream(codec, rate=rate, layout="stereo", bit_rate=bitrate_kbps * 1000)
        )
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.numpy()), format="fltp", layout="stereo")
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            format=stream.codec_context.format,
            layout="stereo",
            rate=rate,
            frame_size=stream.frame_size or 1024,
        )
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def _undated(content: bytes) -> bytes:
    """Zero the timestamp that libsndfile writes into the peak chunk of float WAV files."""
    place = content.find(b"PEAK", 0, 128)
    return content if place < 0 else content[: place + 12] + bytes(4) + content[place + 16 :]
