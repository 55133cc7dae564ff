"""Decode by FFmpeg what libsndfile does not support; restricted to the given file."""

from collections.abc import Generator
from typing import BinaryIO

import av
import numpy as np
from av.stream import Disposition

from acestep.audio.source_notes import DOWNMIXED, STREAMS_LEFT_OUT, SourceNote
from acestep.errors import AudioError

WITHOUT_LENGTH = ("aac", "mp3", "ac3", "eac3", "dts")  # raw streams: FFmpeg estimates their length by the bit rate
# Playlists (HLS, concat, DASH, SDP, ...) refer to other files and URLs, which must not be opened.
NOTHING_ELSE = {"protocol_whitelist": "none"}
AS_THEY_ARE = ("mono", "stereo", "1 channels", "2 channels", "downmix")  # not mixed
# FFmpeg's default layout by number of channels.
DEFAULT_LAYOUTS = {3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}

Block = tuple[np.ndarray, int]


def seconds_of(file: BinaryIO) -> float | None:
    """Duration in seconds from the header; None if it is missing or estimated."""
    try:
        with av.open(file, "r", options=NOTHING_ELSE) as container:
            if container.duration is None or container.format.name in WITHOUT_LENGTH:
                return None
            return container.duration / 1_000_000
    except (av.FFmpegError, ValueError):
        return None


def blocks_of(file: BinaryIO, before: str, notes: list[SourceNote]) -> Generator[Block]:
    """Decode the default audio stream to samples ``[1 or 2, n]`` (fp32) with their rate in Hz.

    More than two channels are mixed to stereo with the coefficients of ITU-R BS.775. Rate and channels may change
    within the file.

    Args:
        before: reason why libsndfile does not read the file, for the error message.
        notes: receives notes on mixing and omitted streams.

    Raises:
        AudioError: the file cannot be decoded, or has no audio stream.
    """
    try:
        with av.open(file, "r", options=NOTHING_ELSE) as container:
            yield from _blocks(container, _played(container, notes), notes)
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(
            "unreadable_audio", f"cannot be decoded as audio (libsndfile: {before}; FFmpeg: {reason})"
        ) from error


def _played(container: av.container.InputContainer, notes: list[SourceNote]) -> av.AudioStream:
    """The default audio stream, else the one with the most channels, else the first."""
    streams = container.streams.audio
    if not streams:
        raise AudioError("unreadable_audio", f"holds no sound (FFmpeg reads it as {container.format.long_name})")
    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        remedy = "convert it to WAV or FLAC"
        raise AudioError("unreadable_audio", "its sound is in a codec that FFmpeg does not know", remedy)
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
    # Interleaved, because PyAV crashes on planar frames with eight or more channels.
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
    """Resample a frame; None flushes the resampler."""
    if resampler is None:
        return
    try:
        pieces = resampler.resample(frame)
    except av.ArgumentError as error:
        channels = "" if frame is None else f"{frame.layout.nb_channels} "
        reason = f"no layout of its {channels}channels is known"
        raise AudioError("unreadable_audio", reason, "mix it to stereo") from error
    for piece in pieces:
        yield piece.to_ndarray().reshape(-1, piece.layout.nb_channels).T, piece.sample_rate
