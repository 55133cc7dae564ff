"""Latents' ingredients on signals whose answer is known."""

import math

import pytest
import torch

from pipeline.demo_model.classifier import train_classifier
from pipeline.demo_model.evaluation import comb_db, pairs
from pipeline.demo_model.spectra import EDGE_FRAMES, HOP, LOWEST_NOTE, SEMITONES, features, phasors


def tone(hertz: float, seconds: float = 1.6, amplitude: float = 0.3) -> torch.Tensor:
    at = torch.arange(round(seconds * 48_000)) / 48_000
    return (amplitude * torch.cos(2 * math.pi * hertz * at + 0.7)).expand(1, 2, -1)


@pytest.mark.parametrize("note", [45, 57, 69, 81])
def test_a_note_is_the_loudest_semitone(note: int) -> None:
    found = features(tone(440 * 2 ** ((note - 69) / 12)))[0, EDGE_FRAMES:-EDGE_FRAMES, :SEMITONES]
    assert (found.argmax(-1) == note - LOWEST_NOTE).all()


@pytest.mark.parametrize(("hertz", "octave"), [(80, 0), (155, 1), (310, 2), (620, 3)])
def test_a_phasor_turns_with_the_tone_of_its_octave(hertz: float, octave: int) -> None:
    found = phasors(tone(hertz))[0, EDGE_FRAMES:-EDGE_FRAMES]
    real, imaginary = found.chunk(2, dim=-1)
    sizes = torch.hypot(real, imaginary).mean(0)
    assert sizes.argmax() == octave
    frames = torch.arange(EDGE_FRAMES, EDGE_FRAMES + len(found))
    wanted = 2 * math.pi * hertz * (frames * HOP + HOP / 2) / 48_000 + 0.7
    error = torch.atan2(imaginary[:, octave], real[:, octave]) - wanted
    assert torch.cos(error).min() > 0.99


def test_a_comb_is_found() -> None:
    at = torch.arange(96_000) / 48_000
    music = sum(torch.cos(2 * math.pi * f * at) for f in (196.0, 261.6, 329.6, 587.3))
    pulses = torch.zeros(96_000)
    pulses[::1920] = 1
    assert comb_db(pulses.expand(2, -1)) - comb_db(music.expand(2, -1)) > 6


def test_every_genre_is_a_source_and_a_target() -> None:
    chosen = pairs(12)
    assert len({pair.source for pair in chosen}) == len({pair.target for pair in chosen}) == 12
    assert all(pair.source != pair.target for pair in pairs(48))


def test_the_classifier_learns_what_is_separable() -> None:
    torch.manual_seed(0)
    centres = torch.randn(12, 120) * 5
    learned = train_classifier([centre + torch.randn(20, 120) for centre in centres])
    found = learned.of_descriptions(centres + torch.randn(12, 120))
    assert (found.argmax(-1) == torch.arange(12)).all()
