"""The training data on disk: one pair of files for each composition, played in all genres.

``00012.audio.npy`` holds the sound (16 bit integers ``[genre, channel, sample]``), ``00012.npz`` what is known of
it: piano rolls, the plan, tempo, key and metre. The second is written last, so that a song with both is complete.
"""

import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.demo_model.arrangers import GENRES, arrange
from pipeline.demo_model.composition import Composition, compose
from pipeline.demo_model.rendering import FRAME_RATE, piano_roll, plan, render

HELD_OUT = 1_000_000  # the seed of the first composition that is never trained on
PEAK_DBFS, PEAK_SPREAD_DB = -3.0, 3.0
SONGS_AT_ONCE = 4  # in one FluidSynth process


def audio_file(folder: Path, seed: int) -> Path:
    """Where the sound of a song is."""
    return folder / f"{seed:05d}.audio.npy"


def facts_file(folder: Path, seed: int) -> Path:
    """Where what is known of a song is."""
    return folder / f"{seed:05d}.npz"


def complete(folder: Path) -> list[int]:
    """Seeds of the songs that are there, in order."""
    return sorted(int(file.stem) for file in folder.glob("[0-9]*.npz"))


def make(folder: Path, seeds: Iterable[int], seconds: float, genres: Sequence[str] = GENRES) -> Iterable[int]:
    """Write the songs that are not there yet; yields the seed of each as it is done.

    Raises:
        RenderingError: they cannot be played here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in seeds if not facts_file(folder, seed).exists()]
    for first in range(0, len(missing), SONGS_AT_ONCE):
        some = missing[first : first + SONGS_AT_ONCE]
        songs = [compose(seed, seconds) for seed in some]
        played = play(songs, genres, seconds)
        for seed, song, audio in zip(some, songs, played, strict=True):
            _write(folder, seed, song, audio, genres)
            yield seed


def play(songs: Sequence[Composition], genres: Sequence[str], seconds: float) -> NDArray[np.float32]:
    """The songs in the genres ``[song, genre, channel, sample]``, peaks between -6 and -3 dB full scale.

    Raises:
        RenderingError: they cannot be played here.
    """
    clips = render([arrange(song, genre) for song in songs for genre in genres], seconds)
    clips = clips.reshape(len(songs), len(genres), *clips.shape[1:])
    for song, group in zip(songs, clips, strict=True):
        draw = random.Random(f"level {song.name}")
        for clip in group:
            peak_db = PEAK_DBFS - draw.uniform(0, PEAK_SPREAD_DB)
            clip *= 10 ** (peak_db / 20) / max(float(np.abs(clip).max()), 1e-3)
    return clips


def _write(folder: Path, seed: int, song: Composition, audio: NDArray[np.float32], genres: Sequence[str]) -> None:
    frames = audio.shape[-1] * FRAME_RATE // 48_000
    rolls = np.stack([piano_roll(arrange(song, genre), frames) for genre in genres])
    unfinished = folder / f"{os.getpid()}.part.npy"
    np.save(unfinished, np.round(audio * 32767).astype(np.int16))
    unfinished.replace(audio_file(folder, seed))
    unfinished = folder / f"{os.getpid()}.part.npz"
    np.savez_compressed(
        unfinished,
        roll=rolls,
        plan=plan(song, frames),
        bpm=np.array(song.bpm),
        keyscale=np.array(song.keyscale),
        timesignature=np.array(song.timesignature),
    )
    unfinished.replace(facts_file(folder, seed))
