"""Twelve arrangers: each plays a composition, bar by bar in time with it, in one genre.

Every arranger draws among a few instruments and patterns, so that one genre sounds in several ways. Programs,
drum kits and drum pitches are those of General MIDI. The file is long because it lists twelve styles.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.demo_model.composition import Chord, Composition

DRUMS = 9  # the channel
KICK, RIM, SNARE, CLAP, CLOSED_HAT, PEDAL_HAT, OPEN_HAT, CRASH, RIDE, TAMBOURINE, SPLASH, SHAKER = (
    36, 37, 38, 39, 42, 44, 46, 49, 51, 54, 55, 70,
)  # fmt: skip
STRENGTHS = {"x": 105, "o": 80, "-": 55}  # of a hit in a drum pattern, as MIDI velocities
TIMING_BEATS, TOUCH = 0.006, 4.0  # standard deviations of a player's onsets and of velocity


@dataclass(frozen=True)
class Part:
    """A MIDI channel's program and controllers."""

    program: int
    volume: int
    pan: int
    reverb: int


@dataclass(frozen=True)
class Note:
    """A note of an arrangement; start and length in beats."""

    channel: int
    start: float
    length: float
    pitch: int
    velocity: int


@dataclass
class Arrangement:
    """Collects parts and notes while an arranger plays ``song``."""

    song: Composition
    draw: random.Random
    parts: dict[int, Part] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    def part(self, program: int, volume: int = 100, pan: int = 64, reverb: int = 40) -> int:
        """Take a free channel."""
        channel = next(c for c in range(16) if c != DRUMS and c not in self.parts)
        self.parts[channel] = Part(program, volume, pan, reverb)
        return channel

    def play(self, channel: int, start: float, length: float, pitch: int, velocity: float) -> None:
        """Add a note, with a little human inaccuracy; octaves outside of a piano are folded back."""
        while pitch > 108:
            pitch -= 12
        while pitch < 21:
            pitch += 12
        touch = max(20, min(127, round(velocity + self.draw.gauss(0, TOUCH))))
        at = max(0.0, start + self.draw.gauss(0, TIMING_BEATS))
        self.notes.append(Note(channel, at, max(0.05, length), pitch, touch))

    def chord(self, channel: int, start: float, length: float, pitches: Sequence[int], velocity: float,
              strum: float = 0.0) -> None:  # fmt: skip
        """Add several notes, ``strum`` beats after each other."""
        for index, pitch in enumerate(pitches):
            self.play(channel, start + strum * index, length, pitch, velocity)

    def lead(self, channel: int, shift: int = 0, velocity: float = 95, legato: float = 0.92,
             swing: float = 0.0) -> None:  # fmt: skip
        """Play the melody, ``shift`` semitones up; off-beats come ``swing`` sixteenths late."""
        for tone in self.song.melody:
            late = swing / 4 if swing and abs(tone.start % 1 - 0.5) < 0.01 else 0
            self.play(channel, tone.start + late, (tone.length - late) * legato, tone.pitch + shift, velocity)

    def beat(self, kit: int, patterns: dict[int, str], volume: int = 105, reverb: int = 30,
             swing: float = 0.0) -> None:  # fmt: skip
        """Play drum patterns of sixteen steps to a bar (the first twelve in triple metre)."""
        self.parts[DRUMS] = Part(kit, volume, 64, reverb)
        steps = self.song.beats * 4
        for pitch, pattern in patterns.items():
            if self.song.compound and pitch in (SNARE, CLAP, RIM) and pattern.count("x") <= 3:
                pattern = "......x........."  # the second dotted quarter
            for bar in range(self.song.bars):
                for step in range(steps):
                    hit = STRENGTHS.get(pattern[step])
                    if hit:
                        late = swing * {2: 1, 1: 0.5, 3: 0.5}.get(step % 4, 0)
                        self.play(DRUMS, bar * self.song.beats + (step + late) / 4, 0.12, pitch, hit)

    def crashes(self, bars: int, velocity: float, cymbals: Sequence[int] = (CRASH,)) -> None:
        """A cymbal on the first beat of every ``bars`` bars."""
        for bar in range(0, self.song.bars, bars):
            self.play(DRUMS, bar * self.song.beats, 2, self.draw.choice(cymbals), velocity)


def above(pitch_class: int, low: int) -> int:
    """The lowest pitch of a class that is not below ``low``."""
    return low + (pitch_class - low) % 12


def voicing(chord: Chord, low: int, tones: Sequence[int] | None = None) -> list[int]:
    """The chord's tones, all within the octave above ``low``."""
    return sorted(above(chord.root + tone, low) for tone in (tones or chord.tones))


def rich(chord: Chord) -> tuple[int, ...]:
    """The chord with seventh and ninth."""
    return {"maj": (0, 4, 7, 11, 14), "min": (0, 3, 7, 10, 14), "dom": (0, 4, 10, 14), "dim": (0, 3, 6, 10)}[
        chord.quality
    ]


def beats_of(chord: Chord, step: float = 1.0) -> range:
    """Indices of the steps of a chord."""
    return range(max(1, int(chord.length / step)))


def country(a: Arrangement) -> None:
    a.lead(a.part(a.draw.choice((110, 110, 105, 25)), 112, 78), velocity=96)
    banjo, guitar, bass = a.part(105, 92, 44), a.part(25, 92, 84), a.part(32, 104)
    for c in a.song.chords:
        v = voicing(c, 55)
        for k in beats_of(c):
            a.play(bass, c.start + k, 0.8, above(c.root + 7, 31) if k % 2 else above(c.root, 36), 92)
            a.chord(guitar, c.start + k + 0.5, 0.35, v, 76, strum=0.015)
        for k in beats_of(c, 0.25):
            octave = 12 if k % 8 == 5 else 0
            a.play(banjo, c.start + k / 4, 0.3, v[(0, 2, 1, 2, 0, 1, 2, 1)[k % 8] % len(v)] + octave, 74)
    a.beat(40, {KICK: "o...o...o...o...", SNARE: "-.o.-.o.-.o.-.oo", PEDAL_HAT: "..-...-...-...-."}, 108)


def heavy_metal(a: Arrangement) -> None:
    a.lead(a.part(a.draw.choice((29, 30)), 108, 64, 50), a.draw.choice((0, 0, 12)), 108, 0.98)
    left, right, bass = a.part(30, 112, 20, 10), a.part(30, 112, 108, 10), a.part(34, 104)
    riff = a.draw.choice(("x.x.x.x.x.x.x.x.", "x.xxx.xxx.xxx.xx", "xxxxxxxxxxxxxxxx"))
    for c in a.song.chords:
        low = above(c.root, 40)
        for k in beats_of(c, 0.25):
            if riff[k % 16] == "x":
                for guitar in (left, right):
                    a.chord(guitar, c.start + k / 4, 0.45 if k % 8 == 0 else 0.21, (low, low + 7, low + 12),
                            96 if k % 4 else 108)  # fmt: skip
                a.play(bass, c.start + k / 4, 0.2, low - 12, 104)
    cymbal = a.draw.choice((OPEN_HAT, RIDE))
    a.beat(a.draw.choice((16, 0)), {KICK: riff, SNARE: "....x.......x...", cymbal: "o...o...o...o..."}, 116, 20)
    a.crashes(2, 112)


def pop(a: Arrangement) -> None:
    a.lead(a.part(a.draw.choice((80, 54, 82)), 96, 64), velocity=92)
    piano, pad, bass = (
        a.part(a.draw.choice((0, 1)), 100, 48),
        a.part(89, 78, 80, 60),
        a.part(a.draw.choice((33, 38)), 104),
    )
    for c in a.song.chords:
        v = voicing(c, 57)
        for k in beats_of(c, 0.5):
            a.chord(piano, c.start + k / 2, 0.42, v, 70 if k % 2 else 84)
            a.play(bass, c.start + k / 2, 0.42, above(c.root, 33), 94)
        a.chord(pad, c.start, c.length * 0.98, v, 70)
    patterns = {KICK: "x.....x.x.......", SNARE: "....x.......x...", CLOSED_HAT: "o.-.o.-.o.-.o.-."}
    a.beat(a.draw.choice((0, 8)), patterns, 108)


def jazz(a: Arrangement) -> None:
    swing = 0.66
    a.lead(a.part(a.draw.choice((65, 66, 59, 11)), 108, 70), a.draw.choice((0, 0, -12)), 88, 0.9, swing)
    chords, bass = a.part(a.draw.choice((0, 0, 26)), 92, 44), a.part(32, 112)
    for c in a.song.chords:
        for t in (t for t in (0, 1.5, 2.5, 3.5) if t < c.length):
            a.chord(chords, c.start + t + (swing / 4 if t % 1 else 0), 0.4, voicing(c, 53, rich(c)[1:]), 70)
        third, fifth = c.tones[1:3]
        walk = (0, third, fifth, (third + 7) % 12 if c.length > 3 else 9)
        for k in beats_of(c):
            a.play(bass, c.start + k, 0.9, above(c.root, 33) + walk[k % 4], 96)
    patterns = {RIDE: "x...x.o.x...x.o.", PEDAL_HAT: "....o.......o...", KICK: "-...-...-...-...",
                SNARE: "......-........."}  # fmt: skip
    a.beat(a.draw.choice((32, 40)), patterns, 104, swing=swing)


def rock(a: Arrangement) -> None:
    a.lead(a.part(a.draw.choice((29, 27)), 104, 70), velocity=100)
    power, open_chords, bass = a.part(29, 92, 24, 20), a.part(27, 88, 104, 20), a.part(33, 106)
    organ = a.part(18, 70, 64) if a.draw.random() < 0.5 else None
    for c in a.song.chords:
        low, v = above(c.root, 43), voicing(c, 52, c.tones[:3])
        for k in beats_of(c, 0.5):
            a.chord(power, c.start + k / 2, 0.42, (low, low + 7), 80 if k % 2 else 92)
            a.play(bass, c.start + k / 2, 0.45, low - 12, 98)
            if k % 8 in (0, 3, 4, 6):
                a.chord(open_chords, c.start + k / 2, 0.6, [*v, low + 12], 84, strum=0.01)
        if organ is not None:
            a.chord(organ, c.start, c.length, v, 70)
    patterns = {KICK: "x.......x.x.....", SNARE: "....x.......x...", CLOSED_HAT: "x.o.x.o.x.o.x.o."}
    a.beat(a.draw.choice((0, 16)), patterns, 114)
    a.crashes(4, 108)


def electronic(a: Arrangement) -> None:
    a.lead(a.part(a.draw.choice((81, 80)), 100, 64, 60), a.draw.choice((0, 12)), 96, 0.8)
    arpeggio, pad, bass = a.part(81, 80, 92, 50), a.part(a.draw.choice((90, 95)), 76, 40, 60), a.part(38, 112)
    for c in a.song.chords:
        v = voicing(c, 60, c.tones[:3])
        for k in beats_of(c, 0.25):
            a.play(arpeggio, c.start + k / 4, 0.2, v[k % 3] + 12 * (k % 2), 74)
        for k in beats_of(c):
            a.play(bass, c.start + k + 0.25, 0.2, above(c.root, 33), 90)
            a.play(bass, c.start + k + 0.5, 0.4, above(c.root, 33), 108)
        a.chord(pad, c.start, c.length, v, 74)
    patterns = {KICK: "x...x...x...x...", CLAP: "....x.......x...", OPEN_HAT: "..x...x...x...x.",
                CLOSED_HAT: "o.-oo.-oo.-oo.-o"}  # fmt: skip
    a.beat(a.draw.choice((25, 24)), patterns, 118, 10)


def classical(a: Arrangement) -> None:
    if a.draw.random() < 0.5:
        a.lead(a.part(0, 108, 64, 60), a.draw.choice((0, 12)), 92)
        left_hand = a.part(0, 96, 56, 60)
        for c in a.song.chords:
            v = voicing(c, 48, c.tones[:3])
            for k in beats_of(c, 0.5):
                a.play(left_hand, c.start + k / 2, 0.5, v[(0, 2, 1, 2)[k % 4]], 70)
            a.play(left_hand, c.start, 0.9, above(c.root, 36), 76)
        return
    a.lead(a.part(40, 108, 36, 60), velocity=88)
    second, viola, cello = a.part(40, 88, 52, 60), a.part(41, 92, 76, 60), a.part(42, 104, 92, 60)
    for c in a.song.chords:
        v = voicing(c, 55, c.tones[:3])
        for k in beats_of(c, 0.5):
            a.play(second, c.start + k / 2, 0.45, v[2], 66)
            a.play(viola, c.start + k / 2, 0.45, v[k % 2], 66)
        for k in beats_of(c, 2):
            a.play(cello, c.start + 2 * k, min(2, c.length) * 0.95, above(c.root, 38), 80)


def hip_hop(a: Arrangement) -> None:
    a.lead(a.part(a.draw.choice((11, 14, 9)), 108, 64, 50), velocity=96)
    keys, bass = a.part(a.draw.choice((4, 89)), 88, 76, 40), a.part(a.draw.choice((39, 38)), 116)
    for c in a.song.chords:
        a.chord(keys, c.start, c.length * 0.9, voicing(c, 55), 66)
        for t, length in ((0, 1.2), (1.75, 0.6), (2.5, 1.2)):
            if t < c.length:
                a.play(bass, c.start + t, min(length, c.length - t), above(c.root, 28), 112)
    kick = a.draw.choice(("x..x....x.x.....", "x.....xx..x....."))
    patterns = {KICK: kick, SNARE: "....x.......x...", CLAP: "....o.......o...", CLOSED_HAT: "o.o.o.ooo.o.oooo"}
    a.beat(25, patterns, 122, 10)


def folk(a: Arrangement) -> None:
    a.lead(a.part(a.draw.choice((73, 22, 74, 21)), 108, 74, 50), a.draw.choice((0, 0, 12)), 90)
    guitar = a.part(24, 108, 48, 40)
    for c in a.song.chords:
        v = voicing(c, 52, c.tones[:3])
        for k in beats_of(c, 0.5):
            octave = 12 if k % 4 == 2 else 0
            a.play(guitar, c.start + k / 2, 0.9, v[(0, 1, 2, 1)[k % 4]] + octave, 76)
        for k in beats_of(c, 2):
            a.play(guitar, c.start + 2 * k, 1.6, above(c.root, 40), 84)
    if a.draw.random() < 0.4:
        a.beat(0, {TAMBOURINE: "....-.......-...", SHAKER: "-.-.-.-.-.-.-.-."}, 80)


def rnb(a: Arrangement) -> None:
    a.lead(a.part(a.draw.choice((65, 26, 80)), 96, 70, 60), velocity=84)
    piano, pad, bass = a.part(4, 108, 48, 50), a.part(91, 66, 80, 60), a.part(a.draw.choice((33, 35)), 112)
    for c in a.song.chords:
        v = voicing(c, 53, rich(c))
        for t, length in ((0, 1.4), (1.75, 0.9), (3.0, 0.8)):
            if t < c.length:
                a.chord(piano, c.start + t, min(length, c.length - t), v, 78)
        a.chord(pad, c.start, c.length, v[:3], 56)
        for t, length in ((0, 1.0), (1.5, 0.25), (2.25, 0.7), (3.5, 0.4)):
            if t < c.length:
                a.play(bass, c.start + t, length, above(c.root, 31), 102)
    patterns = {KICK: "x......x..x.....", SNARE: "....o.......o...", RIM: "....x..-....x...",
                CLOSED_HAT: "-.-o-.-.-.-o-.--"}  # fmt: skip
    a.beat(a.draw.choice((8, 25)), patterns, 104)


def acoustic(a: Arrangement) -> None:
    a.lead(a.part(a.draw.choice((25, 24)), 112, 76, 40), velocity=98)
    guitar = a.part(25, 104, 44, 40)
    for c in a.song.chords:
        v = voicing(c, 52, c.tones[:3])
        strings = [above(c.root, 40), *v, v[0] + 12]
        for t, up in ((0, False), (1, False), (1.5, True), (2.5, True), (3, False), (3.5, True)):
            if t < c.length:
                a.chord(guitar, c.start + t, 0.8, strings[::-1][:3] if up else strings, 72 if up else 82, 0.02)


def orchestral(a: Arrangement) -> None:
    a.lead(a.part(48, 112, 48, 70), a.draw.choice((0, 12)), 96, 0.99)
    a.lead(a.part(a.draw.choice((60, 73, 56)), 96, 80, 70), a.draw.choice((0, 12)), 84, 0.98)
    strings, brass = a.part(48, 92, 72, 70), a.part(a.draw.choice((61, 60)), 84, 90, 70)
    basses, timpani = a.part(48, 104, 96, 70), a.part(47, 116, 64, 70)
    for c in a.song.chords:
        v, low = voicing(c, 52, c.tones[:3]), above(c.root, 36)
        a.chord(strings, c.start, c.length, v, 78)
        a.chord(brass, c.start, c.length, v, 70)
        a.chord(basses, c.start, c.length, (low, low + 12), 88)
        a.play(timpani, c.start, 1.0, low, 100)
        for k in range(4 if c.length >= 3 else 0):
            a.play(timpani, c.start + c.length - 1 + k / 4, 0.3, low, 60 + 10 * k)
    a.beat(48, {}, 90)
    a.crashes(4, 90, (CRASH, SPLASH))


ARRANGERS: dict[str, Callable[[Arrangement], None]] = {
    "country": country,
    "heavy metal": heavy_metal,
    "pop": pop,
    "jazz": jazz,
    "rock": rock,
    "electronic": electronic,
    "classical": classical,
    "hip-hop": hip_hop,
    "folk": folk,
    "r&b": rnb,
    "acoustic": acoustic,
    "orchestral": orchestral,
}
GENRES = tuple(ARRANGERS)


def arrange(song: Composition, genre: str) -> Arrangement:
    """The song in a genre; the same for the same song.

    Raises:
        KeyError: there is no such genre.
    """
    arrangement = Arrangement(song, random.Random(f"{song.name} {genre}"))
    ARRANGERS[genre](arrangement)
    return arrangement
