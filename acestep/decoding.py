"""Any container to samples: libsndfile reads what it knows, FFmpeg the rest; neither is believed.

A file may promise anything, so memory follows what was decoded and never what a header says, and nothing but the
file itself is ever opened.

Legend: n samples at the file's own rate, c channels.
"""

from collections.abc import Iterator
from typing import BinaryIO

import av
import numpy as np
import soundfile

from acestep.errors import AudioError
from acestep.truncation import MPEG_FRAME_SAMPLES, keeps_count, refuse_cut

RATES_HZ = (1_000, 384_000)
BLOCK_SAMPLES = 1 << 20  # decoded at once, over all channels
UNKNOWN_FRAMES = 1 << 62  # libsndfile's word for a length that is not in the header
WITHOUT_LENGTH = ("aac", "mp3", "ac3", "eac3", "dts")  # bare frames: FFmpeg guesses their length from the bit rate
# A playlist (HLS, concat, DASH, SDP ...) names other files and addresses: no protocol may open any of them.
NOTHING_ELSE = {"protocol_whitelist": "none"}


def decode(file: BinaryIO, most_seconds: float | None) -> tuple[np.ndarray, int]:
    """The first two channels ``[1 or 2, n]`` (fp32) and the sample rate in Hz of an audio file.

    Raises:
        AudioError: damaged, truncated, not audio, longer than ``most_seconds``, or of an absurd rate.
    """
    refuse_cut(file)
    try:
        sound = soundfile.SoundFile(file)
    except soundfile.LibsndfileError as error:
        file.seek(0)
        return _decode_with_ffmpeg(file, str(error.error_string), most_seconds)
    with sound:
        # Of Opus, soundfile's reading by blocks puts the first one 6.5 ms late.
        promised = None if sound.subtype == "OPUS" else _promised_seconds(sound, file)
        if promised is not None:
            rate = _checked_rate(sound.samplerate)
            refuse_longer(promised, most_seconds)
            try:
                samples = _joined(_bounded(_sound_blocks(sound), rate, most_seconds))
            except soundfile.LibsndfileError as error:
                raise AudioError(
                    f"damaged or truncated ({error.error_string}); fetch it again from where it came from"
                ) from error
    if promised is None:  # or libsndfile would stop at the end that it guesses
        file.seek(0)
        return _decode_with_ffmpeg(file, "it is Opus, or its length is not in the header", most_seconds)
    found = samples.shape[1] / rate
    slack = MPEG_FRAME_SAMPLES / rate if sound.format == "MP3" else 0.0
    if found < promised - slack:
        raise AudioError(f"truncated: the header promises {promised:.2f} s, {found:.2f} s can be decoded")
    return samples, rate


def header_seconds(file: BinaryIO) -> float | None:
    """The length that a file's header gives, without decoding; None where it gives none that can be believed."""
    file.seek(0)
    try:
        with soundfile.SoundFile(file) as sound:
            return _promised_seconds(sound, file)
    except soundfile.LibsndfileError:
        pass
    file.seek(0)
    try:
        with av.open(file, "r", options=NOTHING_ELSE) as container:
            if container.duration is None or container.format.name in WITHOUT_LENGTH:
                return None
            return container.duration / 1_000_000
    except (av.FFmpegError, ValueError):
        return None


def refuse_longer(seconds: float | None, most_seconds: float | None) -> None:
    """Raises: AudioError: ``seconds`` is more than ``most_seconds``."""
    if most_seconds is not None and seconds is not None and seconds > most_seconds:
        raise AudioError(f"{seconds:.1f} s is longer than {most_seconds:g} s; cut the track")


def _promised_seconds(sound: soundfile.SoundFile, file: BinaryIO) -> float | None:
    if sound.frames >= UNKNOWN_FRAMES or sound.samplerate <= 0:
        return None
    if sound.format == "MP3" and not keeps_count(file):
        return None
    return sound.frames / sound.samplerate


def _checked_rate(rate: int) -> int:
    least, most = RATES_HZ
    if rate <= 0:
        raise AudioError("no sample rate: not audio, or its header is damaged")
    if not least <= rate <= most:
        raise AudioError(
            f"a sample rate of {rate} Hz is not between {least} and {most}; resample the file to 48000 Hz"
        )
    return rate


def _sound_blocks(sound: soundfile.SoundFile) -> Iterator[np.ndarray]:
    frames = max(BLOCK_SAMPLES // sound.channels, 1)
    while len(block := sound.read(frames, dtype="float32", always_2d=True)):
        yield block.T


def _bounded(blocks: Iterator[np.ndarray], rate: int, most_seconds: float | None) -> Iterator[np.ndarray]:
    """The first two channels of each block, up to ``most_seconds``."""
    count = 0
    for block in blocks:
        count += block.shape[1]
        refuse_longer(count / rate, most_seconds)
        yield block[:2].copy()  # a view would keep all the channels


def _joined(blocks: Iterator[np.ndarray]) -> np.ndarray:
    pieces = list(blocks)
    return np.concatenate(pieces, axis=1) if pieces else np.zeros((1, 0), np.float32)


def _decode_with_ffmpeg(file: BinaryIO, before: str, most_seconds: float | None) -> tuple[np.ndarray, int]:
    try:
        with av.open(file, "r", options=NOTHING_ELSE) as container:
            if not container.streams.audio:
                raise AudioError(f"holds no sound (FFmpeg reads it as {container.format.long_name})")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise AudioError("its sound is in a codec that FFmpeg does not know; convert it to WAV or FLAC")
            rate = _checked_rate(stream.rate)
            return _joined(_bounded(ffmpeg_blocks(container, stream), rate, most_seconds)), rate
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"cannot be decoded as audio (libsndfile: {before}; FFmpeg: {reason})") from error


def ffmpeg_blocks(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[np.ndarray]:
    """Blocks ``[c, n]`` (fp32) of a stream, with all of its channels.

    Raises:
        av.FFmpegError, ValueError: the stream is damaged or changes on the way.
    """
    # Interleaved: of planar frames with eight channels or more PyAV reads planes that are not there, and crashes.
    resampler = av.AudioResampler(format="flt")
    any_frame = False
    for frame in container.decode(stream):
        any_frame = True
        yield from map(_channels_first, resampler.resample(frame))
    if any_frame:  # an empty resampler cannot be drained
        yield from map(_channels_first, resampler.resample(None))


def _channels_first(frame: av.AudioFrame) -> np.ndarray:
    return frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T
