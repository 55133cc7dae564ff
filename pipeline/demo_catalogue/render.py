"""Compose and render the demo catalogue: three public domain melodies, arranged here.

The arrangements are written out below as text (melodies, chord symbols, drum grids), turned into MIDI with
``mido``, played by the ``fluidsynth`` command with a General MIDI soundfont, and encoded with ``soundfile``. They
make the file longer than others.

    python render.py [--soundfont FILE.sf2] [--out FOLDER]
"""

import argparse
import random
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mido
import numpy as np
import soundfile as sf

DEFAULT_SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
TICKS, DRUM_CHANNEL = 480, 9  # MIDI ticks per quarter note, the drum channel of General MIDI
PEAK_DBFS, FADE_IN_SECONDS, FADE_OUT_SECONDS = -3.0, 0.005, 0.6

SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
CHORD_TONES = {"": (0, 4, 7), "m": (0, 3, 7), "7": (0, 4, 7, 10)}
KICK, SNARE, HAT = 36, 38, 42

BANJO, STEEL_GUITAR, NYLON_GUITAR, FIDDLE, UPRIGHT_BASS, BRUSH_KIT = 105, 25, 24, 110, 32, 40
STRINGS, CELLO, PIZZICATO, HORN, FLUTE, TIMPANI = 48, 42, 45, 60, 73, 47


@dataclass(frozen=True)
class Note:
    """One note: start and length in quarter notes, MIDI pitch, velocity."""

    start: float
    length: float
    pitch: int
    velocity: int


Notes = list[Note]


@dataclass(frozen=True)
class Part:
    """One instrument of an arrangement: a General MIDI program, its place in the mix, and its notes."""

    program: int
    notes: Notes
    volume: int = 100
    pan: int = 64
    drums: bool = False


@dataclass(frozen=True)
class Song:
    """One demo track: file name, tempo, metre, the exact format to write, and the arrangement."""

    filename: str
    bpm: int
    metre: tuple[int, int]  # in (6, 8) the beat that bpm counts is a dotted quarter note
    seconds: float
    rate: int
    channels: int
    arrange: Callable[[], list[Part]]
    compression: float  # as libsndfile takes it: 0 is the largest file, 1 the smallest


def spell(text: str, start: float) -> Iterator[tuple[float, float, str]]:
    """Read ``name:beats`` words one after another; yield (start, length, name), leaving out rests (``-``)."""
    for word in text.replace("|", " ").split():
        name, length = word.split(":")
        if name != "-":
            yield start, float(length), name
        start += float(length)


def pitch_class(name: str) -> int:
    """Pitch class of a note name such as ``F#`` or ``Bb``."""
    return (SEMITONES[name[0]] + name.count("#") - name.count("b")) % 12


def chord(symbol: str, low: int) -> tuple[int, list[int]]:
    """Lowest bass and close voicing, both within the octave above ``low``, of a symbol such as ``A7/C#``."""
    parts = re.fullmatch(r"([A-G][#b]?)(m|7)?(?:/([A-G][#b]?))?", symbol)
    if parts is None:
        raise ValueError(f"{symbol!r} is not a chord")
    root, quality, bass = parts.groups()
    tones = {(pitch_class(root) + step) % 12 for step in CHORD_TONES[quality or ""]}
    return low + (pitch_class(bass or root) - low) % 12, [p for p in range(low, low + 12) if p % 12 in tones]


def melody(text: str, start: float, velocity: int, shift: int = 0) -> Notes:
    """Notes of a melody such as ``D5:1 F#5:0.5``, moved by ``shift`` semitones."""
    return [
        Note(at, length * 0.96, pitch_class(name[:-1]) + 12 * int(name[-1]) + 12 + shift, velocity)
        for at, length, name in spell(text, start)
    ]


def pads(chords: str, start: float, velocity: int, low: int) -> Notes:
    """Held chords."""
    spelled = spell(chords, start)
    return [Note(at, span * 0.97, p, velocity) for at, span, name in spelled for p in chord(name, low)[1]]


def bass_line(chords: str, start: float, velocity: int, low: int, step: float, drop: int = 0) -> Notes:
    """Chord basses repeated every ``step`` beats, every second one ``drop`` semitones lower."""
    return [
        Note(at + index * step, min(step, span) * 0.9, chord(name, low)[0] - drop * (index % 2), velocity)
        for at, span, name in spell(chords, start)
        for index in range(max(1, round(span / step)))
    ]


def roll(chords: str, start: float, velocity: int, low: int, digits: str, step: float, ring: float) -> Notes:
    """Broken chords: each digit of ``digits`` picks a chord tone (counting on into the next octave)."""
    notes = []
    for at, span, name in spell(chords, start):
        tones = chord(name, low)[1]
        for index in range(round(span / step)):
            octave, tone = divmod(int(digits[(round((at - start) / step) + index) % len(digits)]), len(tones))
            notes.append(Note(at + index * step, step * ring, tones[tone] + 12 * octave, velocity))
    return notes


def strum(pitches: list[int], start: float, velocity: int, length: float, delay: float) -> Notes:
    """One chord, string after string."""
    return [Note(start + delay * index, length, pitch, velocity) for index, pitch in enumerate(pitches)]


def chicks(chords: str, start: float, velocity: int, low: int) -> Notes:
    """Short strums on every off-beat: the answer to the bass in a country "boom-chick"."""
    return [
        note
        for at, span, name in spell(chords, start)
        for beat in range(int(span))
        for note in strum(chord(name, low)[1], at + beat + 0.5, velocity, 0.35, 0.02)
    ]


def drum_grid(grid: dict[int, str], beats: int) -> Notes:
    """Repeat rows of sixteenth notes; a digit is a hit (1 soft to 9 loud) and a dot is none."""
    return [
        Note(index / 4, 0.2, pitch, 12 * int(row[index % len(row)]) + 10)
        for pitch, row in grid.items()
        for index in range(beats * 4)
        if row[index % len(row)] != "."
    ]


def oh_susanna() -> list[Part]:
    """Country: a bar of intro, half a verse (banjo), the chorus (fiddle in thirds over a banjo roll)."""
    pickup, pickup_below = "G4:0.25 A4:0.25", "D4:0.25 F#4:0.25"
    head = "B4:0.5 D5:0.5 D5:0.75 E5:0.25 | D5:0.5 B4:0.5 G4:0.75 A4:0.25"
    first = f"{head} | B4:0.5 B4:0.5 A4:0.5 G4:0.5 | A4:1.5 {pickup}"
    last = f"{head} | B4:0.5 B4:0.5 A4:0.5 A4:0.5 | G4:2"
    cry = f"C5:1 C5:1 | E5:0.5 E5:1 E5:0.5 | D5:0.5 D5:0.5 B4:0.5 G4:0.5 | A4:1.5 {pickup}"
    cry_below = f"A4:1 A4:1 | C5:0.5 C5:1 C5:0.5 | B4:0.5 B4:0.5 G4:0.5 D4:0.5 | F#4:1.5 {pickup_below}"
    head_below = "G4:0.5 B4:0.5 B4:0.75 C5:0.25 | B4:0.5 G4:0.5 D4:0.75 F#4:0.25"
    last_below = f"{head_below} | G4:0.5 G4:0.5 F#4:0.5 F#4:0.5 | D4:2"
    chorus_chords = "C:4 G:2 D7:2 G:5 D7:1 G:1"  # all stop a beat early, for one last stroke together
    chords = f"G:4 G:6 D7:2 G:5 D7:1 G:2 {chorus_chords}"
    verse, chorus, stroke = 4, 20, 35
    banjo = [
        *roll("G:3.5", 0, 72, 55, "02134021", 0.25, 1.9),
        *melody(f"{pickup} {first} {last}", verse - 0.5, 104),
        *roll(chorus_chords, chorus, 70, 55, "0213402130214031", 0.25, 1.9),
    ]
    guitar = [
        *bass_line(chords, 0, 66, 43, 1),
        *chicks(chords, 0, 60, 55),
        *strum([43, 50, 55, 59, 62, 67], stroke, 62, 2, 0.02),
    ]
    fiddles = melody(f"{cry} {last}", chorus, 92) + melody(f"{cry_below} {last_below}", chorus, 72)
    bass = [*bass_line(chords, 0, 98, 36, 1, drop=5), Note(stroke, 1.5, 31, 90)]
    grid = {KICK: "4...3...", SNARE: "2.622.632.622.63", HAT: "..5...5."}
    return [
        Part(BANJO, banjo, volume=112, pan=50),
        Part(STEEL_GUITAR, melody(last_below, verse + 8, 84), volume=100, pan=84),
        Part(FIDDLE, fiddles, volume=112, pan=76),
        Part(STEEL_GUITAR, guitar, volume=92, pan=36),
        Part(UPRIGHT_BASS, bass, volume=100),
        Part(BRUSH_KIT, drum_grid(grid, stroke), volume=112, drums=True),
    ]


def ode_to_joy() -> list[Part]:
    """Orchestra: the theme on strings, then again an octave up with flute, horns and timpani."""
    theme = "F#4:1 F#4:1 G4:1 A4:1 | A4:1 G4:1 F#4:1 E4:1 | D4:1 D4:1 E4:1 F#4:1"
    half, full = f"{theme} | F#4:1.5 E4:0.5 E4:2", f"{theme} | E4:1.5 D4:0.5 D4:2"
    half_chords = "D:2 A7/C#:2 | D:2 Bm:2 | G:2 A7:1 D/F#:1 | D/A:1 A:3"
    full_chords = "D:2 A7/C#:2 | D:2 Bm:2 | Bm:2 Em:1 D/A:1 | A7:1.5 D:2.5"
    beats = "D3:1 D3:1 A2:1 A2:1 | D3:2 D3:2 | D3:2 -:1 A2:1 | A2:0.25 A2:0.25 A2:0.25 A2:0.25 A2:0.5 D3:2.5"
    again = 16
    pizzicato = bass_line(half_chords, 0, 96, 35, 1) + bass_line(full_chords, again, 92, 35, 0.5)
    return [
        Part(STRINGS, melody(half, 0, 82) + melody(full, again, 94, shift=12), volume=116, pan=46),
        Part(CELLO, melody(half, 0, 84, shift=-12) + melody(full, again, 84), volume=92, pan=80),
        Part(STRINGS, pads(half_chords, 0, 50, 57) + pads(full_chords, again, 66, 57), volume=84, pan=72),
        Part(PIZZICATO, pizzicato, volume=80),
        Part(STRINGS, bass_line(full_chords, again, 70, 35, 4), volume=104, pan=90),
        Part(HORN, pads(full_chords, again, 62, 50), volume=82, pan=34),
        Part(FLUTE, melody(full, again, 84, shift=24), volume=74, pan=56),
        Part(TIMPANI, melody(beats, again, 92), volume=116, pan=70),
    ]


def greensleeves() -> list[Part]:
    """Folk: verse (an eighth of pickup, eight bars of 6/8) and refrain, a flute over nylon guitar arpeggios."""
    line = "C5:1 D5:0.5 E5:0.75 F5:0.25 E5:0.5 | D5:1 B4:0.5 G4:0.75 A4:0.25 B4:0.5"
    open_end = "C5:1 A4:0.5 A4:0.75 G#4:0.25 A4:0.5 | B4:1 G#4:0.5"
    closed_end = "C5:0.75 B4:0.25 A4:0.5 G#4:0.75 F#4:0.25 G#4:0.5 | A4:3"
    verse = f"A4:0.5 | {line} | {open_end} E4:1 | A4:0.5 | {line} | {closed_end}"
    joy = "G5:1.5 G5:0.75 F#5:0.25 E5:0.5 | D5:1 B4:0.5 G4:0.75 A4:0.25 B4:0.5"
    refrain = f"{joy} | {open_end} E4:1.5 | {joy} | {closed_end}"
    verse_chords = "Am:3 | G:3 | Am:3 | E:3 | Am:3 | G:3 | Am:1.5 E:1.5 | Am:3"
    refrain_chords = "C:3 | G:3 | Am:3 | E:3 | C:3 | G:3 | Am:1.5 E:1.5"  # and a last chord, strummed
    again, last = 24.5, 45.5
    chords = f"{verse_chords} | {refrain_chords}"
    guitar = [
        *bass_line(chords, 0.5, 84, 40, 3),
        *roll(chords, 0.5, 74, 48, "024321", 0.5, 2.8),
        *strum([45, 52, 57, 60, 64, 69], last, 70, 4, 0.12),
    ]
    flute = melody(verse, 0, 90) + melody(refrain, again, 98)
    return [Part(NYLON_GUITAR, guitar, volume=108), Part(FLUTE, flute, volume=104)]


SONGS = (
    Song("oh_susanna.ogg", 108, (4, 4), 20.5, 48000, 2, oh_susanna, compression=0.85),
    Song("ode_to_joy.mp3", 132, (4, 4), 15.5, 44100, 2, ode_to_joy, compression=0.75),
    Song("greensleeves.flac", 110, (6, 8), 18.0, 48000, 1, greensleeves, compression=1.0),
)


def track(part: Part, channel: int, chance: random.Random) -> mido.MidiTrack:
    """One part as a MIDI track; small changes of timing and velocity keep it from sounding mechanical."""
    setup = [mido.Message("program_change", channel=channel, program=part.program)]
    for control, value in ((7, part.volume), (10, part.pan), (91, 44)):  # volume, pan, reverb
        setup.append(mido.Message("control_change", channel=channel, control=control, value=value))
    events = []
    for note in part.notes:
        start = max(0, round(note.start * TICKS) + chance.randint(-4, 4))
        event = {"channel": channel, "note": note.pitch, "velocity": note.velocity + chance.randint(-5, 5)}
        events.append(mido.Message("note_on", time=start, **event))
        events.append(mido.Message("note_off", time=start + round(note.length * TICKS), **event))
    events.sort(key=lambda message: (message.time, message.type == "note_on"))
    previous = [0, *(message.time for message in events)]
    deltas = [message.copy(time=message.time - tick) for message, tick in zip(events, previous, strict=False)]
    return mido.MidiTrack(setup + deltas)


def to_midi(song: Song) -> mido.MidiFile:
    """A song as MIDI: tempo, metre and full length on a track of their own, then one track per part."""
    quarters = song.bpm * (1.5 if song.metre == (6, 8) else 1)  # per minute
    end = round((song.seconds + 1) * quarters / 60 * TICKS)
    tempo = mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(quarters))
    metre = mido.MetaMessage("time_signature", numerator=song.metre[0], denominator=song.metre[1])
    conductor = mido.MidiTrack([tempo, metre, mido.MetaMessage("end_of_track", time=end)])
    chance = random.Random(song.filename)  # seeded: every run plays the same
    free = (channel for channel in range(16) if channel != DRUM_CHANNEL)
    parts = [track(part, DRUM_CHANNEL if part.drums else next(free), chance) for part in song.arrange()]
    return mido.MidiFile(ticks_per_beat=TICKS, tracks=[conductor, *parts])


def render(song: Song, soundfont: Path) -> np.ndarray:
    """Play a song with fluidsynth; return its first ``song.seconds``, faded, at the peak level."""
    with tempfile.TemporaryDirectory() as folder:
        midi, wave = Path(folder, "song.mid"), Path(folder, "song.wav")
        to_midi(song).save(midi)
        options = f"-n -i -q -g 0.4 -r {song.rate} -T wav -O float -F".split()
        subprocess.run(["fluidsynth", *options, wave, soundfont, midi], check=True)
        audio, _ = sf.read(wave, always_2d=True)
    audio = audio[: round(song.seconds * song.rate)]
    if song.channels == 1:
        audio = audio.mean(axis=1, keepdims=True)
    rise, fall = round(FADE_IN_SECONDS * song.rate), round(FADE_OUT_SECONDS * song.rate)
    audio[:rise] *= np.linspace(0, 1, rise)[:, None]
    audio[-fall:] *= np.cos(np.linspace(0, np.pi / 2, fall))[:, None] ** 2
    return audio * 10 ** (PEAK_DBFS / 20) / np.abs(audio).max()


def encode(song: Song, audio: np.ndarray, folder: Path) -> Path:
    """Write a rendered song in the container its file name asks for."""
    path = folder / song.filename
    with sf.SoundFile(path, "w", song.rate, song.channels, compression_level=song.compression) as file:
        for block in np.array_split(audio, 64):  # libsndfile may crash when Vorbis gets one huge write
            file.write(block)
    return path


def main() -> None:
    """Render every song of the catalogue."""
    parser = argparse.ArgumentParser(description="Render the demo catalogue.")
    parser.add_argument("--soundfont", type=Path, default=DEFAULT_SOUNDFONT, help="General MIDI, .sf2")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for song in SONGS:
        path = encode(song, render(song, arguments.soundfont), arguments.out)
        print(f"{path.name}: {song.seconds} s, {song.rate} Hz, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
