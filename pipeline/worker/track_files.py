"""Reads the files of a track: its source and its timbre reference."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from acestep.audio.files import read_audio
from acestep.audio.source_notes import SourceNote, of_reference
from acestep.errors import AudioError
from pipeline.storage.audio_files import read_planned
from pipeline.storage.read_timeout import ReadTimeout
from pipeline.storage.source_copy import SourceCopy
from pipeline.storage.source_errors import SourceError


@dataclass(frozen=True)
class TrackFiles:
    """Copies of a track's source and timbre reference, with the planned content."""

    source: SourceCopy
    reference: SourceCopy | None

    def close(self) -> None:
        self.source.file.close()
        if self.reference is not None:
            self.reference.file.close()


@dataclass(frozen=True)
class TrackAudio:
    """The decoded source and timbre reference ``[2, n]`` of a track, with notes on both."""

    source: Tensor
    reference: Tensor | None
    notes: tuple[SourceNote, ...]


def fetch_files(track: dict[str, Any], timeout: ReadTimeout) -> TrackFiles:
    """Copy the files of a planned track.

    Raises:
        SourceError: see ``read_planned``; of the reference, the message names it.
    """
    source = read_planned(track["source"], track.get("source_digest") or "", timeout)
    if not track["reference"]:
        return TrackFiles(source, None)
    with _named_as_reference(track):
        return TrackFiles(source, read_planned(track["reference"], track.get("reference_digest") or "", timeout))


def decode_files(track: dict[str, Any], files: TrackFiles, max_seconds: float) -> TrackAudio:
    """Decode the files of a track; may be repeated.

    Raises:
        AudioError: a file cannot be decoded or is too long; of the reference, the message names it.
    """
    files.source.file.seek(0)
    source = read_audio(files.source.file, max_seconds)
    if files.reference is None:
        return TrackAudio(source.wave, None, tuple(source.notes))
    files.reference.file.seek(0)
    with _named_as_reference(track):
        reference = read_audio(files.reference.file, max_seconds)
    notes = of_reference(reference.notes, track["reference"])
    return TrackAudio(source.wave, reference.wave, (*source.notes, *notes))


@contextmanager
def _named_as_reference(track: dict[str, Any]) -> Iterator[None]:
    """Prefix errors with the name of the reference; other errors concern the source."""
    try:
        yield
    except (AudioError, SourceError) as error:
        raise error.at(f"its reference_audio {track['reference']}") from error
