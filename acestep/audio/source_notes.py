"""What is worth knowing of a source that can be read: what of it is left out, and whether anything is heard."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

SILENT, NEARLY_SILENT = "silent_source", "nearly_silent_source"
STREAMS_LEFT_OUT, DATA_LEFT_OUT = "streams_left_out", "data_left_out"
DOWNMIXED, JOINED = "downmixed", "joined"
SILENT_REFERENCE = "silent_reference"
SILENCE_PEAK = 1e-6
NEARLY_SILENT_DB = -70.0  # RMS; below it ITU-R BS.1770 counts no block towards a loudness


@dataclass(frozen=True)
class SourceNote:
    """One thing worth knowing: a kind for programs, a sentence for people."""

    kind: str
    text: str


class LevelMeter:
    """Peak and RMS of samples that come in blocks."""

    def __init__(self) -> None:
        self.peak = self.squares = 0.0
        self.count = 0

    def add(self, samples: np.ndarray) -> None:
        """Take a block of any shape."""
        if samples.size:
            self.peak = max(self.peak, float(np.abs(samples).max()))
            self.squares += float(np.square(samples, dtype=np.float64).sum())
            self.count += samples.size

    @property
    def rms_db(self) -> float:
        """In dB below full scale; minus infinity where all is zero, or nothing came."""
        return 10 * math.log10(self.squares / self.count) if self.squares > 0 else -math.inf

    def note(self) -> SourceNote | None:
        """What there is to say of a source with these samples."""
        if self.peak < SILENCE_PEAK:
            return SourceNote(SILENT, "the source is silent: the cover follows the caption alone")
        if self.rms_db < NEARLY_SILENT_DB:
            text = (
                f"the source is nearly silent ({self.rms_db:.0f} dBFS RMS): the model hears next to nothing of it"
            )
            return SourceNote(NEARLY_SILENT, text)
        return None


def of_reference(notes: Iterable[SourceNote], name: str) -> list[SourceNote]:
    """The notes on a file that is a timbre reference, and not a source."""
    silent = SourceNote(SILENT_REFERENCE, f"reference_audio {name} is silent and has no effect")
    return [
        silent if note.kind == SILENT else SourceNote(note.kind, f"reference_audio {name}: {note.text}")
        for note in notes
        if note.kind != NEARLY_SILENT
    ]
