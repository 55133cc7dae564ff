"""Real recordings, from packages of Debian: the stems of one song belong together, and strangers are strangers."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from acestep.audio.files import encode_audio, load_audio
from acestep.constants import SAMPLE_RATE
from pipeline.metrics.chance_level import ChanceLevel, measure_chance
from pipeline.metrics.features import Features, extract
from pipeline.metrics.verdict import verdict
from tests.pipeline.metrics.material import measure
from tests.pipeline.metrics.test_songs import auc

pytestmark = pytest.mark.slow

PACKAGES = ("fretsonfire-songs-sectoid", "fretsonfire-songs-muldjord", "wesnoth-1.16-music")
STEMS = Path("/usr/share/games/fretsonfire/data/songs")
MUSIC = Path("/usr/share/games/wesnoth/1.16/data/core/music")
NO_MUSIC = f"the music is in a Debian package: apt-get install {PACKAGES[2]}"
EXCERPT = slice(30 * SAMPLE_RATE, 90 * SAMPLE_RATE)
TRACKS = 12

HARMONY, MELODY = "harmony/chroma_excess", "melody/salience_excess"


def listen(files: Sequence[Path]) -> list[Features]:
    return extract([load_audio(file)[:, EXCERPT] for file in files])


@pytest.fixture(scope="module")
def stems() -> dict[str, tuple[Features, Features]]:
    """Guitar and band of each song."""
    folders = sorted(file.parent for file in STEMS.glob("*/*/guitar.ogg"))
    if len(folders) < 8:
        pytest.skip(f"the songs are in Debian packages: apt-get install {' '.join(PACKAGES[:2])}")
    guitars, bands = (listen([folder / name for folder in folders]) for name in ("guitar.ogg", "song.ogg"))
    return {folder.name: pair for folder, *pair in zip(folders, guitars, bands, strict=True)}


@pytest.fixture(scope="module")
def tracks() -> list[tuple[str, Features]]:
    """Orchestral pieces by several composers."""
    if not MUSIC.is_dir():
        pytest.skip(NO_MUSIC)
    large = sorted(file for file in MUSIC.glob("*.ogg") if file.stat().st_size > 2_500_000)[:TRACKS]
    return [(file.stem, features) for file, features in zip(large, listen(large), strict=True)]


def test_stems_of_one_song_outrank_stems_of_others(stems: dict[str, tuple[Features, Features]]) -> None:
    bands = [band for _, band in stems.values()]
    found = {
        (guitar, band): result.values
        for guitar, (features, _) in stems.items()
        for band, result in zip(stems, measure(features, bands), strict=True)
    }

    def scores(name: str, rule: Callable[[str, str], bool]) -> torch.Tensor:
        return torch.tensor([values[name] for pair, values in found.items() if rule(*pair)])

    for name, least in ((HARMONY, 0.95), (MELODY, 0.8)):
        same, other = scores(name, str.__eq__), scores(name, str.__ne__)
        print(f"\n{name}: AUC {auc(same, other):.3f}, same {same.median():.2f}, other {other.median():.2f}")
        assert auc(same, other) >= least
    for name in stems:
        own = found[name, name][HARMONY]
        assert own > max(found[name, other][HARMONY] for other in stems if other != name)


def test_different_pieces_are_at_chance_and_lost(tracks: list[tuple[str, Features]]) -> None:
    chance = measure_chance(tracks, tracks)
    print(f"\n{chance}")
    assert chance.pairs == TRACKS * (TRACKS - 1)
    for name in (HARMONY, MELODY):
        assert abs(chance.mean[name]) < 0.05
        assert chance.p95[name] < 0.1
    judged = [
        verdict(result.values, chance)[0]
        for name, source in tracks
        for result in measure(source, [other for its, other in tracks if its != name])
    ]
    assert judged.count("lost") > 0.85 * len(judged)
    assert "copy" not in judged


@pytest.mark.parametrize("codec", ["mp3", "opus"])
def test_a_piece_that_was_only_encoded_is_a_copy(codec: str) -> None:
    if not MUSIC.is_dir():
        pytest.skip(NO_MUSIC)
    wave = load_audio(min(MUSIC.glob("b*.ogg")))[:, EXCERPT]
    coded = load_audio(io.BytesIO(encode_audio(wave, codec, bitrate_kbps=96)))
    (source,), cover = extract([wave]), extract([coded])
    (found,) = measure(source, cover)
    assert verdict(found.values, ChanceLevel())[0] == "copy"
    assert found.values["timbre/mfcc_distance"] < 3
