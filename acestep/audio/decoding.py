"""Decode any container to samples, by libsndfile where it supports the format, else by FFmpeg.

Headers are not trusted: memory grows with the decoded samples, and a length in a header is checked against them.
No other file is opened.

Legend: n samples at the file's own rate.
"""

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import BinaryIO

import numpy as np
import soundfile

from acestep.audio import ffmpeg
from acestep.audio.containers import closed
from acestep.audio.ffmpeg import Block
from acestep.audio.file_windows import BlockReader
from acestep.audio.flac_end import bytes_behind
from acestep.audio.joined_files import JoinedPart, has_no_count, parts_of
from acestep.audio.source_notes import DATA_LEFT_OUT, DOWNMIXED, JOINED, LevelMeter, SourceNote
from acestep.audio.truncation import MPEG_FRAME_SAMPLES, declares_frame_count, refuse_cut
from acestep.errors import AudioError, TooLongError

RATES_HZ = (1_000, 384_000)
BLOCK_SAMPLES = 1 << 20  # samples decoded at once, over all channels
VORBIS_BLOCK_SAMPLES = 8192  # longest block; the first block of a stream cut at its start has no sound
UNKNOWN_FRAMES = 1 << 62  # libsndfile reports at least this if the header has no length


def decode(file: BinaryIO, max_seconds: float | None) -> tuple[list[Block], list[SourceNote]]:
    """Decode an audio file to blocks of samples ``[1 or 2, n]`` (fp32) with their rate in Hz, and notes.

    Most files give one block; a change of rate or channels within the file starts another.

    Raises:
        TooLongError: longer than ``max_seconds``.
        AudioError: damaged, truncated, not audio, or with an unsupported sample rate.
    """
    notes: list[SourceNote] = []
    pieces: list[list[np.ndarray]] = []
    rates: list[int] = []
    meter = LevelMeter()
    for samples, rate in blocks_of(file, max_seconds, notes):
        meter.add(samples)
        if not pieces or (len(pieces[-1][0]), rates[-1]) != (len(samples), rate):
            pieces.append([])
            rates.append(rate)
        pieces[-1].append(samples)
    joined = [(np.concatenate(pieces.pop(0), axis=1), rate) for rate in rates]
    if meter.peak > 1 and any(note.kind == DOWNMIXED for note in notes):
        for samples, _ in joined:
            samples /= meter.peak  # prevents clipping of the mix
        notes.append(SourceNote(DOWNMIXED, f"the mix to stereo is scaled down, it reaches {meter.peak:.2f}"))
    said = meter.note()
    return joined, [*notes, said] if said else notes


def blocks_of(file: BinaryIO, max_seconds: float | None, notes: list[SourceNote]) -> Generator[Block]:
    """Stream ``decode`` block by block; ``notes`` is complete at the end.

    Raises:
        See ``decode``.
    """
    file = closed(file)
    joined = parts_of(file)
    if len(joined.parts) > 1:
        notes.append(SourceNote(JOINED, f"{len(joined.parts)} files joined to one are read one after the other"))
    if joined.left_over:
        notes.append(_left_out(joined.left_over))
    seconds = 0.0
    for part in joined.parts:
        with closing(_blocks_of_part(part.open(file), part, seconds, max_seconds, notes)) as blocks:
            for samples, rate in blocks:
                seconds += samples.shape[1] / _checked_rate(rate)
                refuse_longer(seconds, max_seconds, ended=False)
                yield samples, rate


def check_samples(blocks: Sequence[np.ndarray]) -> None:
    """Check decoded samples.

    Raises:
        AudioError: there are no samples, or some are not finite.
    """
    if not sum(block.size for block in blocks):
        raise AudioError("unreadable_audio", "no samples: not audio, or a header without sound")
    if not all(np.isfinite(block).all() for block in blocks):
        raise AudioError("unreadable_audio", "samples are not finite (NaN or infinity)")


def header_seconds(file: BinaryIO) -> float | None:
    """Duration in seconds from a file's header, without decoding; None if it is missing or unreliable."""
    file = closed(file)
    if has_no_count(file):
        return None
    try:
        parts = parts_of(file, believe_count=True).parts
    except AudioError:
        return None
    found = [_header_seconds(part.open(file), part) for part in parts]
    return None if None in found else sum(seconds for seconds in found if seconds is not None)


def refuse_longer(seconds: float | None, max_seconds: float | None, ended: bool = True) -> None:
    """Check a duration.

    Args:
        ended: ``seconds`` is the total duration, not only what has been decoded so far.

    Raises:
        TooLongError: ``seconds`` is more than ``max_seconds``.
    """
    if max_seconds is not None and seconds is not None and seconds > max_seconds:
        said = f"{seconds:.1f} s is" if ended else "it is"
        raise TooLongError("too_long", f"{said} longer than {max_seconds:g} s", "cut the track")


def _header_seconds(file: BinaryIO, part: JoinedPart) -> float | None:
    file.seek(0)
    try:
        with soundfile.SoundFile(file) as sound:
            return _promised_seconds(sound, file, part)
    except soundfile.LibsndfileError:
        pass
    file.seek(0)
    return ffmpeg.seconds_of(file)


def _promised_seconds(sound: soundfile.SoundFile, file: BinaryIO, part: JoinedPart) -> float | None:
    if not 0 < sound.frames < UNKNOWN_FRAMES or sound.samplerate <= 0:
        return None
    if sound.format == "MP3" and (part.exceeds_count or not declares_frame_count(file)):
        return None
    return sound.frames / sound.samplerate


def _checked_rate(rate: int) -> int:
    min_rate, max_rate = RATES_HZ
    if rate <= 0:
        raise AudioError("unreadable_audio", "no sample rate: not audio, or its header is damaged")
    if not min_rate <= rate <= max_rate:
        remedy = "resample the file to 48000 Hz"
        reason = f"a sample rate of {rate} Hz is not between {min_rate} and {max_rate}"
        raise AudioError("unreadable_audio", reason, remedy)
    return rate


def _blocks_of_part(
    file: BinaryIO, part: JoinedPart, before_s: float, max_seconds: float | None, notes: list[SourceNote]
) -> Generator[Block]:
    refuse_cut(file)
    try:
        sound = soundfile.SoundFile(file)
    except soundfile.LibsndfileError as error:
        reason = str(error.error_string)
    else:
        with sound:
            promised = _promised_seconds(sound, file, part)
            reason = _reason_for_ffmpeg(sound, part, promised)
            if promised is not None:
                _checked_rate(sound.samplerate)
                refuse_longer(before_s + promised, max_seconds)
            if not reason:
                yield from _complete(_sound_blocks(sound), sound)
                if sound.format == "FLAC" and (behind := bytes_behind(BlockReader(file), file.tell())):
                    notes.append(_left_out(behind, at_most=True))
                return
            file.seek(0)
            blocks = ffmpeg.blocks_of(file, reason, notes)
            # libsndfile's frame count is unreliable for Opus and for files without a length.
            yield from _complete(blocks, sound) if promised is not None and sound.subtype != "OPUS" else blocks
            return
    file.seek(0)
    yield from ffmpeg.blocks_of(file, reason, notes)


def _left_out(count: int, at_most: bool = False) -> SourceNote:
    said = f"{'up to ' if at_most else ''}{count} bytes of the file are no part of its sound and are left out"
    return SourceNote(DATA_LEFT_OUT, said)


def _reason_for_ffmpeg(sound: soundfile.SoundFile, part: JoinedPart, promised: float | None) -> str:
    """The reason why FFmpeg must decode a file, or ""."""
    if sound.subtype == "OPUS":
        return "it is Opus"  # soundfile's blockwise reading delays the first block by 6.5 ms
    if promised is None:
        return "its length is not in the header"  # libsndfile would stop at a guessed length
    if sound.channels > 2:
        return f"it has {sound.channels} channels"
    return "it has several streams" if part.streams > 1 else ""


def _sound_blocks(sound: soundfile.SoundFile) -> Generator[Block]:
    frames = max(BLOCK_SAMPLES // sound.channels, 1)
    try:
        while len(block := sound.read(frames, dtype="float32", always_2d=True)):
            yield block.T, sound.samplerate
    except soundfile.LibsndfileError as error:
        remedy = "fetch it again from where it came from"
        raise AudioError("unreadable_audio", f"damaged or truncated ({error.error_string})", remedy) from error


def _complete(blocks: Generator[Block], sound: soundfile.SoundFile) -> Generator[Block]:
    """Yield blocks, then check the total against the header.

    Raises:
        AudioError: fewer samples than the header states.
    """
    count = 0
    for samples, rate in blocks:
        count += samples.shape[1]
        yield samples, rate
    slack = MPEG_FRAME_SAMPLES if sound.subtype.startswith("MPEG") else 0
    slack = VORBIS_BLOCK_SAMPLES if sound.subtype == "VORBIS" else slack
    if count + slack < sound.frames:
        promised, decoded = (f"{frames / sound.samplerate:.2f} s" for frames in (sound.frames, count))
        reason = f"truncated: the header promises {promised}, {decoded} can be decoded"
        raise AudioError("unreadable_audio", reason)
