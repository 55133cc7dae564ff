"""Arrangements to sound: a standard MIDI file of many clips, played at once by the FluidSynth command.

One process for many clips, because loading the soundfont takes longer than playing a clip.
"""

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acestep.errors import RestyleError
from pipeline.demo_model.arrangers import DRUMS, Arrangement
from pipeline.demo_model.composition import QUALITIES, Composition

SAMPLE_RATE, FRAME_RATE = 48_000, 25
TICKS_PER_SECOND = 2000
GAP_S, LEAD_IN_S = 1.2, 0.1  # silence between clips, for what still rings, and before the first note
SOUNDFONT = "FluidR3_GM.sf2"
SOUNDFONT_FOLDERS = ("/usr/share/sounds/sf2", "/usr/share/soundfonts", "/usr/local/share/soundfonts")
KICKS, SNARES = (35, 36), (37, 38, 39, 40)
ROLL_WIDTH = 131  # 128 pitches, kick, snare, other drums
PLAN_WIDTH = 4


class RenderingError(RestyleError):
    """The songs cannot be played here; the message says what to install."""


def find_soundfont() -> Path:
    """The FluidR3 soundfont: what ``RESTYLE_SOUNDFONT`` names, else where distributions install it.

    Raises:
        RenderingError: it is in none of these places.
    """
    named = os.environ.get("RESTYLE_SOUNDFONT")
    files = [Path(named)] if named else [Path(folder) / SOUNDFONT for folder in SOUNDFONT_FOLDERS]
    for file in files:
        if file.is_file():
            return file
    remedy = "install it (Debian: apt install fluid-soundfont-gm) or name the file in RESTYLE_SOUNDFONT"
    reason = f"the soundfont {SOUNDFONT} is not at {' or '.join(map(str, files))}"
    raise RenderingError("not_installed", reason, remedy)


def render(arrangements: Sequence[Arrangement], seconds: float) -> NDArray[np.float32]:
    """Play the first ``seconds`` of each -> ``[clip, channel, sample]``, stereo at 48 kHz.

    Raises:
        RenderingError: FluidSynth or its soundfont is missing, or playing failed.
    """
    command = shutil.which("fluidsynth")
    if command is None:
        remedy = "install it (Debian: apt install fluidsynth)"
        raise RenderingError("not_installed", "the command fluidsynth is not found", remedy)
    soundfont = find_soundfont()
    slot = seconds + GAP_S
    with tempfile.TemporaryDirectory() as folder:
        midi, raw = Path(folder) / "songs.mid", Path(folder) / "songs.raw"
        midi.write_bytes(midi_file(arrangements, seconds))
        options = [
            "-niq",
            "-C",
            "0",
            "-g",
            "0.4",
            "-r",
            str(SAMPLE_RATE),
            "-T",
            "raw",
            "-O",
            "s16",
            "-F",
            str(raw),
        ]
        done = subprocess.run([command, *options, str(soundfont), str(midi)], capture_output=True, text=True)
        if done.returncode or not raw.is_file():
            raise RenderingError("not_installed", f"fluidsynth failed: {done.stderr.strip() or done.returncode}")
        played = np.fromfile(raw, "<i2").reshape(-1, 2)
    samples = round(seconds * SAMPLE_RATE)
    clips = np.zeros((len(arrangements), 2, samples), np.float32)
    for index, clip in enumerate(clips):
        start = round((index * slot + LEAD_IN_S) * SAMPLE_RATE)
        piece = played[start : start + samples].T / 32768
        clip[:, : piece.shape[1]] = piece
    return clips


def midi_file(arrangements: Sequence[Arrangement], seconds: float) -> bytes:
    """A standard MIDI file (format 0) that plays the clips one after the other."""
    events: list[tuple[int, int, bytes]] = []  # tick, order within it, message

    def at(time_s: float, order: int, *message: int) -> None:
        events.append((round(time_s * TICKS_PER_SECOND), order, bytes(message)))

    for index, arrangement in enumerate(arrangements):
        start = index * (seconds + GAP_S) + LEAD_IN_S
        beat_s = 60 / arrangement.song.tempo
        for channel in range(16):
            at(start - 0.08, 0, 0xB0 | channel, 120, 0)  # all sound off
        for channel, part in arrangement.parts.items():
            at(start - 0.08, 1, 0xC0 | channel, part.program)
            for controller, value in ((7, part.volume), (10, part.pan), (91, part.reverb)):
                at(start - 0.08, 2, 0xB0 | channel, controller, value)
        for note in arrangement.notes:
            begin, end = note.start * beat_s, (note.start + note.length) * beat_s
            if begin < seconds - 0.02:
                at(start + begin, 4, 0x90 | note.channel, note.pitch, note.velocity)
                at(start + min(end, seconds), 3, 0x80 | note.channel, note.pitch, 0)
    at(len(arrangements) * (seconds + GAP_S) + 0.3, 5, 0xFF, 0x2F, 0)  # end of track
    track, now = bytearray(), 0
    for tick, _, message in sorted(events, key=lambda event: event[:2]):
        track += _variable_length(tick - now) + message
        now = tick
    # A quarter note lasts half a second unless the file says otherwise.
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, TICKS_PER_SECOND // 2)
    return header + b"MTrk" + struct.pack(">I", len(track)) + bytes(track)


def _variable_length(value: int) -> bytes:
    """A MIDI quantity: seven bits to a byte, all but the last with the highest bit set."""
    out = [value & 0x7F]
    while value := value >> 7:
        out.append(0x80 | value & 0x7F)
    return bytes(reversed(out))


def piano_roll(arrangement: Arrangement, frames: int) -> NDArray[np.uint8]:
    """Which pitches sound and which drums are struck in each latent frame ``[frames, ROLL_WIDTH]``."""
    per_beat = 60 / arrangement.song.tempo * FRAME_RATE
    roll = np.zeros((frames, ROLL_WIDTH), np.uint8)
    for note in arrangement.notes:
        first = int(note.start * per_beat)
        if note.channel == DRUMS:
            roll[first : first + 1, 128 if note.pitch in KICKS else 129 if note.pitch in SNARES else 130] = 1
        else:
            roll[first : max(first + 1, round((note.start + note.length) * per_beat)), note.pitch] = 1
    return roll


def plan(song: Composition, frames: int) -> NDArray[np.float32]:
    """What a song is at each latent frame ``[frames, PLAN_WIDTH]``.

    Columns: melody pitch (0: rest), 1 where a melody note starts, root and quality of the chord.
    """
    per_beat = 60 / song.tempo * FRAME_RATE
    columns = np.zeros((frames, PLAN_WIDTH), np.float32)
    for tone in song.melody:
        first = int(tone.start * per_beat)
        columns[first : round((tone.start + tone.length * 0.95) * per_beat), 0] = tone.pitch
        columns[first : first + 1, 1] = 1
    for chord in song.chords:
        span = slice(round(chord.start * per_beat), round((chord.start + chord.length) * per_beat))
        columns[span, 2], columns[span, 3] = chord.root, QUALITIES.index(chord.quality)
    return columns
