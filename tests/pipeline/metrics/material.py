"""Songs made for the tests: chord charts and tunes of their own, in four genres, played by FluidSynth.

All songs have one key, tempo and length, so that nothing but the song itself tells them apart: the hardest case.
"""

import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import mido
import pytest
import soundfile
import torch
from torch import Tensor

from acestep.constants import SAMPLE_RATE
from pipeline.metrics.compute import MeasureResult, default_measures, split_reasons
from pipeline.metrics.features import Features

BEATS_PER_MINUTE = 120
BEATS = 4 * 12  # twelve bars: 24 s
TICKS = 480  # of one beat
SCALE = (0, 2, 4, 5, 7, 9, 11)
DRUMS = 9  # the channel General MIDI keeps for them
KICK, SNARE, STICK, CLOSED_HAT, OPEN_HAT, CRASH, SHAKER = 36, 38, 37, 42, 46, 49, 70

CHORDS = {
    "C": (0, 4, 7),
    "Dm": (2, 5, 9),
    "Em": (4, 7, 11),
    "F": (5, 9, 0),
    "G": (7, 11, 2),
    "Am": (9, 0, 4),
    "E7": (4, 8, 11),
    "D": (2, 6, 9),
}
CHARTS = (
    "C C F F C C G G F G C C",
    "Am F C G Am F C G F G Am Am",
    "Dm G C Am Dm G Em Am Dm E7 Am Am",
    "C Em Am F C Em F G Am Em F G",
    "F F C C G G Am Am F D G G",
    "Am Am E7 E7 Am Dm E7 Am Dm Am E7 Am",
)
GENRES = ("country", "metal", "bossa", "electronic")


@dataclass(frozen=True)
class Song:
    """What is played; a tune is drawn from its number.

    transpose: semitones up. stretch: how much longer each beat lasts.
    """

    chart: int
    tune: int
    genre: str
    transpose: int = 0
    stretch: float = 1.0

    def arranged(self, genre: str) -> "Song":
        return replace(self, genre=genre)


@dataclass(frozen=True)
class Note:
    """One note: start and length in beats."""

    channel: int
    start: float
    length: float
    pitch: int
    velocity: int


def song(number: int, genre: str = "country") -> Song:
    """The song of a number, below ``len(CHARTS)``."""
    return Song(number, number, genre)


def melody(chart: list[str], tune: int) -> list[tuple[float, float, int]]:
    """A tune over the chords as (start, length, pitch): chord notes on the beats, steps of the scale between."""
    rng = random.Random(f"tune {tune}")
    pitch, start, notes = 72 + rng.choice((0, 4, 7)), 0.0, []
    while start < BEATS:
        length = rng.choice((0.5, 0.5, 1.0, 1.0, 1.5, 2.0))
        chord = CHORDS[chart[int(start // 4)]]
        allowed = chord if start % 1 == 0 else SCALE
        near = [p for p in range(67, 85) if p % 12 in allowed and 0 < abs(p - pitch) <= 7]
        pitch = rng.choice(near)
        notes.append((start, min(length, BEATS - start), pitch))
        start += length
    return notes


def arrange(played: Song) -> tuple[dict[int, int], list[Note]]:
    """Programs of the channels (0 lead, 1 chords, 2 bass, 3 pad), and the notes of everyone."""
    chart = CHARTS[played.chart].split()
    tune = melody(chart, played.tune)
    band = {"country": _country, "metal": _metal, "bossa": _bossa, "electronic": _electronic}[played.genre]
    return band(chart, tune)


def _voiced(chord: str, lowest: int) -> list[int]:
    """The chord's notes, each in the octave from ``lowest``."""
    return [lowest + (pitch - lowest) % 12 for pitch in CHORDS[chord]]


def _country(chart: list[str], tune: list[tuple[float, float, int]]) -> tuple[dict[int, int], list[Note]]:
    notes = [Note(0, start, length * 0.9, pitch, 94) for start, length, pitch in tune]
    for bar, chord in enumerate(chart):
        at, root = 4 * bar, CHORDS[chord][0]
        low, fifth = 36 + (root - 36) % 12, 36 + (root + 7 - 36) % 12
        notes += [Note(2, at, 1.8, low, 90), Note(2, at + 2, 1.8, fifth, 85)]
        for beat in (1, 1.5, 3, 3.5):
            notes += [Note(1, at + beat + 0.02 * k, 0.45, p, 78) for k, p in enumerate(_voiced(chord, 55))]
        notes += [Note(DRUMS, at + beat, 0.2, KICK, 80) for beat in (0, 2)]
        notes += [Note(DRUMS, at + beat, 0.2, STICK, 60) for beat in (1, 3)]
        notes += [Note(DRUMS, at + beat / 2, 0.1, SHAKER, 40) for beat in range(8)]
    return {0: 110, 1: 25, 2: 32}, notes  # fiddle, steel-string guitar, upright bass


def _metal(chart: list[str], tune: list[tuple[float, float, int]]) -> tuple[dict[int, int], list[Note]]:
    notes = [Note(0, start, length, pitch, 104) for start, length, pitch in tune]
    for bar, chord in enumerate(chart):
        at, root = 4 * bar, CHORDS[chord][0]
        low = 40 + (root - 40) % 12
        for eighth in range(8):
            when, held = at + eighth / 2, 0.5 if eighth % 4 == 0 else 0.3
            notes += [Note(1, when, held, p, 100) for p in (low, low + 7, low + 12)]
            notes += [Note(2, when, 0.45, low - 12, 100)]
            notes += [Note(DRUMS, when + k / 4, 0.1, KICK, 110) for k in range(2)]
            notes += [Note(DRUMS, when, 0.1, OPEN_HAT, 80)]
        notes += [Note(DRUMS, at + beat, 0.2, SNARE, 120) for beat in (1, 3)]
        notes += [Note(3, at, 4, p, 68) for p in _voiced(chord, 52)]
        notes += [Note(DRUMS, at, 1, CRASH, 100)] if bar % 4 == 0 else []
    return {0: 29, 1: 30, 2: 34, 3: 48}, notes  # overdriven and distorted guitar, picked bass, strings


def _bossa(chart: list[str], tune: list[tuple[float, float, int]]) -> tuple[dict[int, int], list[Note]]:
    notes = [Note(0, start, length * 0.8, pitch, 86) for start, length, pitch in tune]
    for bar, chord in enumerate(chart):
        at, root = 4 * bar, CHORDS[chord][0]
        low, fifth = 33 + (root - 33) % 12, 33 + (root + 7 - 33) % 12
        notes += [Note(2, at, 1.4, low, 80), Note(2, at + 1.5, 0.5, fifth, 70), Note(2, at + 2, 1.9, fifth, 75)]
        for beat in (0, 1, 1.5, 2.5, 3.5):
            notes += [Note(1, at + beat, 0.4, p, 72) for p in _voiced(chord, 57)]
        notes += [Note(DRUMS, at + beat, 0.2, STICK, 70) for beat in (0, 1.5, 3)]
        notes += [Note(DRUMS, at + beat / 2, 0.1, CLOSED_HAT, 45) for beat in range(8)]
    return {0: 73, 1: 24, 2: 32}, notes  # flute, nylon guitar, upright bass


def _electronic(chart: list[str], tune: list[tuple[float, float, int]]) -> tuple[dict[int, int], list[Note]]:
    notes = [Note(0, start, length * 0.6, pitch, 92) for start, length, pitch in tune]
    for bar, chord in enumerate(chart):
        at, root, chord_notes = 4 * bar, CHORDS[chord][0], _voiced(chord, 60)
        low = 36 + (root - 36) % 12
        notes += [Note(1, at + k / 4, 0.2, chord_notes[k % 3] + 12 * (k % 2), 66) for k in range(16)]
        notes += [Note(2, at + k + 0.5, 0.4, low, 100) for k in range(4)]
        notes += [Note(3, at, 4, p, 78) for p in chord_notes]
        notes += [Note(DRUMS, at + beat, 0.2, KICK, 120) for beat in range(4)]
        notes += [Note(DRUMS, at + beat + 0.5, 0.2, OPEN_HAT, 70) for beat in range(4)]
        notes += [Note(DRUMS, at + beat, 0.2, SNARE, 80) for beat in (1, 3)]
    return {0: 80, 1: 81, 2: 38, 3: 89}, notes  # square and saw lead, synthesiser bass, warm pad


def midi_of(played: Song) -> mido.MidiFile:
    """The song as a MIDI file."""
    programs, notes = arrange(played)
    track = mido.MidiTrack()
    tempo = mido.bpm2tempo(BEATS_PER_MINUTE / played.stretch)
    track.append(mido.MetaMessage("set_tempo", tempo=round(tempo)))
    track.extend(mido.Message("program_change", channel=c, program=p) for c, p in programs.items())
    # ends before starts, so that a note struck again at once is not cut by the end of the one before it
    events = sorted(event for note in notes for event in _events(note, played.transpose))
    now = 0
    for at, _, channel, pitch, velocity in events:
        kind = "note_on" if velocity else "note_off"
        track.append(mido.Message(kind, channel=channel, note=pitch, velocity=velocity, time=at - now))
        now = at
    return mido.MidiFile(ticks_per_beat=TICKS, tracks=[track])


def _events(note: Note, transpose: int) -> Iterator[tuple[int, int, int, int, int]]:
    pitch = note.pitch if note.channel == DRUMS else note.pitch + transpose
    yield round(note.start * TICKS), 1, note.channel, pitch, note.velocity
    yield round((note.start + note.length) * TICKS), 0, note.channel, pitch, 0


@lru_cache(maxsize=64)
def render(played: Song) -> Tensor:
    """The song as it sounds, ``[2, n]`` at 48 kHz, without the reverberation after its last beat.

    Skips the test where FluidSynth is missing.
    """
    if shutil.which("fluidsynth") is None:
        pytest.skip("FluidSynth plays these tests' music: apt-get install fluidsynth")
    with tempfile.TemporaryDirectory() as folder:
        score, sound = Path(folder, "song.mid"), Path(folder, "song.wav")
        midi_of(played).save(score)
        command = ["fluidsynth", "-ni", "-q", "-g", "0.4", "-r", str(SAMPLE_RATE), "-F", str(sound)]
        subprocess.run([*command, str(_soundfont()), str(score)], check=True, stdout=subprocess.DEVNULL)
        samples, _ = soundfile.read(sound, dtype="float32", always_2d=True)
    seconds = BEATS * 60 / BEATS_PER_MINUTE * played.stretch
    return torch.from_numpy(samples[: round(seconds * SAMPLE_RATE)].T.copy())


def _soundfont() -> Path:
    """TimGM6mb, which comes inside the wheel of pretty_midi."""
    return Path(str(files("pretty_midi") / "TimGM6mb.sf2"))


def measure(source: Features, covers: Sequence[Features]) -> list[MeasureResult]:
    """The default group of each cover."""
    return [split_reasons(default_measures(source, cover)) for cover in covers]
