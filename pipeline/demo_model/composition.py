"""Compositions: key, metre, tempo, chords and a melody, drawn at random from a seed.

Times and lengths are in beats of a quarter note. In 6/8 a bar has three of them, and the tempo that a caption
tells counts dotted quarters, as usual.
"""

import random
from dataclasses import dataclass

KEYS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
QUALITIES = ("maj", "min", "dom", "dim")
TONES = {"maj": (0, 4, 7), "min": (0, 3, 7), "dom": (0, 4, 7, 10), "dim": (0, 3, 6)}
PROGRESSIONS = {  # degrees of the scale
    "major": "1451 1564 1645 1164 1415 1254 4156 6415 1346 1145 1515 1625 1411 5411".split(),
    "minor": "1674 1637 1451 1155 1675 1463 1751 1634 1145 6371 1515".split(),
}


@dataclass(frozen=True)
class Chord:
    """A chord of ``quality`` on pitch class ``root``."""

    start: float
    length: float
    root: int
    quality: str

    @property
    def tones(self) -> tuple[int, ...]:
        return TONES[self.quality]


@dataclass(frozen=True)
class Tone:
    """A note of the melody at a MIDI pitch."""

    start: float
    length: float
    pitch: int


@dataclass(frozen=True)
class Composition:
    """What all arrangements of a song share; ``beats`` is the length of a bar."""

    name: str
    tonic: int
    mode: str
    tempo: float
    beats: int
    compound: bool
    bars: int
    chords: tuple[Chord, ...]
    melody: tuple[Tone, ...]

    @property
    def keyscale(self) -> str:
        return f"{KEYS[self.tonic]} {self.mode}"

    @property
    def timesignature(self) -> str:
        return "6" if self.compound else str(self.beats)

    @property
    def bpm(self) -> int:
        return round(self.tempo / 1.5) if self.compound else round(self.tempo)

    def chord_at(self, beat: float) -> Chord:
        """The chord that sounds at ``beat``."""
        return next(chord for chord in reversed(self.chords) if chord.start <= beat + 1e-6)


def compose(seed: int, seconds: float) -> Composition:
    """A composition of at least ``seconds``; the same for the same arguments."""
    draw = random.Random(f"composition {seed}")
    tonic, mode = draw.randrange(12), "major" if draw.random() < 0.6 else "minor"
    compound = draw.random() < 0.15
    beats = 3 if compound or draw.random() < 0.08 else 4
    tempo = 1.5 * draw.randint(80, 130) if compound else draw.randint(75, 150)
    bars = int(seconds * tempo / 60 // beats) + 1
    chords = _chords(draw, tonic, mode, beats, bars)
    melody = _melody(draw, chords, {(tonic + step) % 12 for step in SCALES[mode]}, beats, bars)
    return Composition(str(seed), tonic, mode, tempo, beats, compound, bars, chords, melody)


def _chords(draw: random.Random, tonic: int, mode: str, beats: int, bars: int) -> tuple[Chord, ...]:
    """Two progressions of four chords in the form a a b a."""
    verse, bridge = draw.choice(PROGRESSIONS[mode]), draw.choice(PROGRESSIONS[mode])
    span = beats / draw.choice((1, 1, 1, 2, 2, 0.5) if beats == 4 else (1, 1, 0.5))
    chords: list[Chord] = []
    while len(chords) * span < bars * beats:
        index = len(chords)
        degrees = bridge if index // 4 % 4 == 2 else verse
        step, quality = _quality(draw, mode, int(degrees[index % 4]))
        chords.append(Chord(index * span, span, (tonic + step) % 12, quality))
    return tuple(chords)


def _quality(draw: random.Random, mode: str, degree: int) -> tuple[int, str]:
    """Semitones above the tonic and quality of the chord on a degree, now and then a dominant seventh."""
    scale = SCALES[mode]
    root = scale[degree - 1]
    third, fifth = ((scale[(degree + skip) % 7] - root) % 12 for skip in (1, 3))
    if fifth == 6:
        return root, draw.choice(("min", "dim"))
    likely = {("minor", 5): 0.7, ("major", 5): 0.35}.get((mode, degree), 0.08 if mode == "major" else 0)
    if draw.random() < likely and degree not in (1, 4):
        return root, "dom"
    return root, "maj" if third == 4 else "min"


def _rhythm(draw: random.Random, length: float) -> list[tuple[float, float]]:
    """Starts and lengths that fill ``length`` beats."""
    choices = draw.choice(((1, 1, 2, 0.5, 1.5), (0.5, 0.5, 1, 1, 1.5), (0.5, 0.5, 0.25, 0.75, 1)))
    notes: list[tuple[float, float]] = []
    at = 0.0
    while at < length:
        first = draw.choice(choices)
        whole = {0.25: 1, 0.75: 1, 0.5: 1, 1.5: 2}.get(first, first)  # the beat or two that a short note completes
        for part in (first, whole - first):
            part = min(part, length - at)
            if part > 0:
                notes.append((at, part))
                at += part
    return notes


def _melody(
    draw: random.Random, chords: tuple[Chord, ...], scale: set[int], beats: int, bars: int
) -> tuple[Tone, ...]:
    """Two rhythmic motifs of two bars in the form a a b a; chord tones on beats, small steps."""
    motifs = _rhythm(draw, beats * 2), _rhythm(draw, beats * 2)
    low, high = draw.choice(((62, 79), (64, 81), (60, 77)))
    rests = draw.choice((0.0, 0.05, 0.12))
    pitch, notes = draw.randint(low + 4, high - 4), []
    for block in range((bars + 1) // 2):
        for offset, length in motifs[block % 4 == 2]:
            start = block * 2 * beats + offset
            if start >= bars * beats:
                break
            chord = next(chord for chord in reversed(chords) if chord.start <= start + 1e-6)
            tones = {(chord.root + tone) % 12 for tone in chord.tones}
            strong = length >= 1 or (offset % 1 == 0 and draw.random() < 0.85)
            allowed = tones if strong else scale
            near = [p for p in range(low, high + 1) if p % 12 in allowed and abs(p - pitch) <= 7]
            near = near or [p for p in range(low, high + 1) if p % 12 in tones]
            weights = [(0.25 if p == pitch else 1) / (0.6 + abs(p - pitch)) for p in near]
            pitch = draw.choices(near, weights)[0]
            if draw.random() >= rests:
                notes.append(Tone(start, length, pitch))
    return tuple(notes)
