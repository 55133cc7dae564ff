"""Features of the songs, computed once for all tests."""

import pytest

from pipeline.metrics.features import Features, extract
from tests.pipeline.metrics.material import CHARTS, GENRES, Song, render, song


@pytest.fixture(scope="session")
def catalogue() -> dict[Song, Features]:
    """Every song in three genres."""
    songs = [song(number, genre) for number in range(len(CHARTS)) for genre in GENRES[:3]]
    return dict(zip(songs, extract([render(played) for played in songs]), strict=True))
