"""Compositions and arrangements: deterministic, in time, in key, playable."""

import shutil

import numpy as np
import pytest

from pipeline.demo_model.arrangers import DRUMS, GENRES, arrange
from pipeline.demo_model.captions import caption
from pipeline.demo_model.composition import SCALES, compose
from pipeline.demo_model.rendering import (
    FRAME_RATE,
    RenderingError,
    find_soundfont,
    midi_file,
    piano_roll,
    plan,
    render,
)


def playable() -> bool:
    try:
        find_soundfont()
    except RenderingError:
        return False
    return shutil.which("fluidsynth") is not None


@pytest.mark.parametrize("seed", range(12))
def test_a_composition_is_the_same_for_its_seed_and_holds_together(seed: int) -> None:
    song = compose(seed, 12.8)
    assert song == compose(seed, 12.8)
    assert song != compose(seed + 1, 12.8)
    length = song.bars * song.beats
    assert length * 60 / song.tempo >= 12.8
    assert sum(chord.length for chord in song.chords) == pytest.approx(
        max(c.start + c.length for c in song.chords)
    )
    assert all(tone.start >= 0 and tone.start + tone.length <= length + 1 for tone in song.melody)
    scale = {(song.tonic + step) % 12 for step in SCALES[song.mode]}
    inside = [tone.pitch % 12 in scale for tone in song.melody]
    assert np.mean(inside) > 0.8
    for tone in song.melody:
        chord = song.chord_at(tone.start)
        assert chord.start <= tone.start + 1e-6 < chord.start + chord.length + 1e-3


@pytest.mark.parametrize("genre", GENRES)
def test_an_arrangement_plays_its_song_in_time(genre: str) -> None:
    song = compose(3, 9.6)
    arrangement = arrange(song, genre)
    assert arrangement.notes == arrange(song, genre).notes
    assert {note.channel for note in arrangement.notes} <= set(arrangement.parts)
    assert all(21 <= note.pitch <= 108 and 20 <= note.velocity <= 127 for note in arrangement.notes)
    starts = np.array([note.start for note in arrangement.notes if note.channel != DRUMS])
    for tone in song.melody:  # whatever the genre, something sounds where the melody has a note
        assert np.abs(starts - tone.start).min() < 0.2


def test_genres_differ() -> None:
    song = compose(3, 9.6)
    played = {genre: frozenset(part.program for part in arrange(song, genre).parts.values()) for genre in GENRES}
    assert len(set(played.values())) == len(GENRES)


def test_frames_tell_what_is_played() -> None:
    song = compose(5, 6.4)
    known, roll = plan(song, 160), piano_roll(arrange(song, "pop"), 160)
    first = song.melody[0]
    middle = int((first.start + first.length / 2) * 60 / song.tempo * FRAME_RATE)
    assert known[middle, 0] == first.pitch
    assert roll[middle, first.pitch]
    assert known[0, 2] == song.chords[0].root
    assert known[int(first.start * 60 / song.tempo * FRAME_RATE), 1] == 1


def test_captions_name_their_genre_or_what_plays_in_it() -> None:
    import random

    draw = random.Random(0)
    found = {genre: {caption(genre, draw) for _ in range(200)} for genre in GENRES}
    assert all(len(some) > 120 for some in found.values())
    assert all("metal" in text.lower() for text in found["heavy metal"])


def test_without_the_soundfont_the_error_says_what_to_install(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("RESTYLE_SOUNDFONT", str(tmp_path / "none.sf2"))
    with pytest.raises(RenderingError, match="fluid-soundfont-gm"):
        find_soundfont()


def test_midi_is_well_formed() -> None:
    content = midi_file([arrange(compose(1, 6.4), "jazz")], 6.4)
    mido = pytest.importorskip("mido")
    import io

    played = mido.MidiFile(file=io.BytesIO(content))
    assert played.length == pytest.approx(6.4 + 1.2 + 0.3, abs=0.05)
    assert sum(message.type == "note_on" for message in played) > 50


@pytest.mark.skipif(not playable(), reason="needs fluidsynth and FluidR3")
def test_songs_are_played_at_their_time() -> None:
    song = compose(2, 4.0)
    silent = arrange(song, "pop")
    silent.notes[:] = []
    late = arrange(song, "classical")
    late.notes[:] = [note for note in late.notes if note.start * 60 / song.tempo > 2.0]
    empty, half = render([silent, late], 4.0)
    assert np.abs(empty).max() < 1e-3
    assert np.abs(half[:, : 48_000 * 19 // 10]).max() < 1e-3 < np.abs(half[:, 96_000:]).max()
