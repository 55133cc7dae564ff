"""CREPE hears the tune: notes that are known, covers before other songs."""

import math
import sys
from dataclasses import replace

import pytest
import torch

from acestep.constants import SAMPLE_RATE
from acestep.errors import RequestError
from pipeline.metrics.features import extract
from pipeline.metrics.pitch import ACCURACY, check_melody, compare, track
from tests.pipeline.metrics.material import render, song


def test_the_pitch_of_a_note_is_its_own() -> None:
    for note in (45, 60, 69, 83):
        t = torch.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
        hertz = 440 * 2 ** ((note - 69) / 12)
        wave = sum(torch.sin(2 * math.pi * k * hertz * t) / k for k in range(1, 6))[None] / 4
        (features,) = extract([wave])
        midi, confidence = track(features)[:, 5:-5]
        assert midi.shape == (76 - 10,)
        assert midi == pytest.approx(note, abs=0.3)
        assert confidence.min() > 0.7


def test_covers_outrank_other_songs_and_other_tunes() -> None:
    played = [song(number, genre) for number in range(3) for genre in ("country", "bossa")]
    features = dict(zip(played, extract([render(one)[:, : 12 * SAMPLE_RATE] for one in played]), strict=True))
    pitches = {one: track(heard) for one, heard in features.items()}
    found = {
        (a, b): compare(features[a], features[b], pitches[a], pitches[b])[ACCURACY]
        for a in played
        for b in played
        if a != b and (a.tune == b.tune or a.genre == b.genre)
    }
    covers = [value for (a, b), value in found.items() if a.tune == b.tune]
    others = [value for (a, b), value in found.items() if a.tune != b.tune]
    print(f"\ncovers {sorted(covers)}, others {sorted(others)}")
    assert min(covers) > max(others)
    one, pitch = features[played[0]], pitches[played[0]]
    for octaves in (-1, 0, 1):
        assert compare(one, one, pitch, pitch + 12 * octaves) == {ACCURACY: 1.0}
    assert compare(one, one, pitch, pitch + 1) == {ACCURACY: 0.0}
    (raised,) = extract([render(replace(played[1], transpose=5))[:, : 12 * SAMPLE_RATE]])
    assert compare(one, raised, pitch, track(raised))[ACCURACY] > 0.5


def test_silence_has_no_tune() -> None:
    music, silent = extract([render(song(0))[:, : 5 * SAMPLE_RATE], torch.zeros(2, 5 * SAMPLE_RATE)])
    assert track(silent).shape == (2, 0)
    assert compare(music, silent, track(music), track(silent)) == {ACCURACY: "the cover is silent"}


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_melody()
    monkeypatch.delitem(sys.modules, "torchcrepe", raising=False)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if "editable" not in repr(f).lower()])
    with pytest.raises(RequestError, match=r'pip install "restyle\[melody\]"'):
        check_melody()
