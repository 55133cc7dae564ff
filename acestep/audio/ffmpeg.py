"""FFmpeg, for what libsndfile does not read or not read whole; it opens nothing but the file itself."""

from collections.abc import Generator
from typing import BinaryIO

import av
import numpy as np
from av.stream import Disposition

from acestep.audio.source_notes import DOWNMIXED, STREAMS_LEFT_OUT, SourceNote
from acestep.errors import AudioError

WITHOUT_LENGTH = ("aac", "mp3", "ac3", "eac3", "dts")  # bare frames: FFmpeg guesses their length from the bit rate
# A playlist (HLS, concat, DASH, SDP ...) names other files and addresses: no protocol may open any of them.
NOTHING_ELSE = {"protocol_whitelist": "none"}
AS_THEY_ARE = ("mono", "stereo", "1 channels", "2 channels", "downmix")
# What FFmpeg takes for a number of channels without a layout.
DEFAULT_LAYOUTS = {3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}

Block = tuple[np.ndarray, int]


def seconds_of(file: BinaryIO) -> float | None:
    """The length that FFmpeg reads in a header; None where there is none that can be believed."""
    try:
        with av.open(file, "r", options=NOTHING_ELSE) as container:
            if container.duration is None or container.format.name in WITHOUT_LENGTH:
                return None
            return container.duration / 1_000_000
    except (av.FFmpegError, ValueError):
        return None


def blocks_of(file: BinaryIO, before: str, notes: list[SourceNote]) -> Generator[Block]:
    """Samples ``[1 or 2, n]`` (fp32) of the stream that a player plays, each with its rate in Hz.

    More than two channels are mixed to stereo by their layout, with the coefficients of ITU-R BS.775. Rate and
    channels may change on the way.

    Args:
        before: why libsndfile does not read it.
        notes: takes what is left out.

    Raises:
        AudioError: it cannot be decoded, or has no sound.
    """
    try:
        with av.open(file, "r", options=NOTHING_ELSE) as container:
            yield from _blocks(container, _played(container, notes), notes)
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"cannot be decoded as audio (libsndfile: {before}; FFmpeg: {reason})") from error


def _played(container: av.container.InputContainer, notes: list[SourceNote]) -> av.AudioStream:
    """The default audio stream; where none or several are, the one with the most channels, then the first."""
    streams = container.streams.audio
    if not streams:
        raise AudioError(f"holds no sound (FFmpeg reads it as {container.format.long_name})")
    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        raise AudioError("its sound is in a codec that FFmpeg does not know; convert it to WAV or FLAC")
    played = max(known, key=lambda s: (bool(s.disposition & Disposition.default), s.codec_context.channels))
    if len(streams) > 1:
        place = streams.index(played) + 1
        text = f"of {len(streams)} audio streams number {place} is taken, and the others are left out"
        notes.append(SourceNote(STREAMS_LEFT_OUT, text))
    return played


def _blocks(
    container: av.container.InputContainer, stream: av.AudioStream, notes: list[SourceNote]
) -> Generator[Block]:
    resampler, form = None, None
    for frame in container.decode(stream):
        if form != (frame.sample_rate, frame.layout.name, frame.format.name):
            yield from _resampled(resampler, None)
            form = (frame.sample_rate, frame.layout.name, frame.format.name)
            resampler = _resampler(frame, notes)
        yield from _resampled(resampler, frame)
    yield from _resampled(resampler, None)


def _resampler(frame: av.AudioFrame, notes: list[SourceNote]) -> av.AudioResampler:
    # Interleaved: of planar frames with eight channels or more PyAV reads planes that are not there, and crashes.
    layout = frame.layout.name
    if layout in AS_THEY_ARE:
        return av.AudioResampler(format="flt")
    count = frame.layout.nb_channels
    if layout == f"{count} channels":
        default = f" ({DEFAULT_LAYOUTS[count]})" if count in DEFAULT_LAYOUTS else ""
        said = (
            f"{count} channels without a layout are mixed to stereo (ITU-R BS.775), "
            f"in FFmpeg's default layout for {count} channels{default}"
        )
    else:
        said = f"{count} channels ({layout}) are mixed to stereo (ITU-R BS.775)"
    note = SourceNote(DOWNMIXED, said)
    if note not in notes:
        notes.append(note)
    return av.AudioResampler(format="flt", layout="stereo")


def _resampled(resampler: av.AudioResampler | None, frame: av.AudioFrame | None) -> Generator[Block]:
    """What a resampler gives for a frame; for None what is left in it."""
    if resampler is None:  # an empty one cannot be drained
        return
    try:
        pieces = resampler.resample(frame)
    except av.ArgumentError as error:
        channels = "" if frame is None else f"{frame.layout.nb_channels} "
        raise AudioError(f"no layout of its {channels}channels is known; mix it to stereo") from error
    for piece in pieces:
        yield piece.to_ndarray().reshape(-1, piece.layout.nb_channels).T, piece.sample_rate
