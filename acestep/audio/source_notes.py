"""Notes about readable sources: omitted streams or data, downmixing, silence."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

SILENT, NEARLY_SILENT = "silent_source", "nearly_silent_source"
STREAMS_LEFT_OUT, DATA_LEFT_OUT = "streams_left_out", "data_left_out"
DOWNMIXED, JOINED = "downmixed", "joined"
SILENT_REFERENCE = "silent_reference"
SILENCE_PEAK = 1e-6
NEARLY_SILENT_DB = -70.0  # RMS; the absolute gate of ITU-R BS.1770


@dataclass(frozen=True)
class SourceNote:
    """A note: a kind for programs, and a sentence for people."""

    kind: str
    text: str


class LevelMeter:
    """Streaming peak and RMS meter."""

    def __init__(self) -> None:
        self.peak = self.squares = 0.0
        self.count = 0

    def add(self, samples: np.ndarray) -> None:
        if samples.size:
            self.peak = max(self.peak, float(np.abs(samples).max()))
            self.squares += float(np.square(samples, dtype=np.float64).sum())
            self.count += samples.size

    @property
    def rms_db(self) -> float:
        """RMS in dBFS; minus infinity for zeros or no samples."""
        return 10 * math.log10(self.squares / self.count) if self.squares > 0 else -math.inf

    def note(self) -> SourceNote | None:
        """A note if the samples are silent or nearly silent, else None."""
        if self.peak < SILENCE_PEAK:
            return SourceNote(SILENT, "the source is silent: the cover follows the caption alone")
        if self.rms_db < NEARLY_SILENT_DB:
            text = (
                f"the source is nearly silent ({self.rms_db:.0f} dBFS RMS): the model hears next to nothing of it"
            )
            return SourceNote(NEARLY_SILENT, text)
        return None


def of_reference(notes: Iterable[SourceNote], name: str) -> list[SourceNote]:
    """Rephrase the notes of a file that is used as a timbre reference."""
    silent = SourceNote(SILENT_REFERENCE, f"reference_audio {name} is silent and has no effect")
    return [
        silent if note.kind == SILENT else SourceNote(note.kind, f"reference_audio {name}: {note.text}")
        for note in notes
        if note.kind != NEARLY_SILENT
    ]
