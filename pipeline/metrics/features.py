"""Features of recordings, computed once on the device of the samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from acestep.constants import SAMPLE_RATE, SILENT_PEAK
from acestep.errors import RequestError
from pipeline.metrics import harmony, melody, rhythm, sound, timbre
from pipeline.metrics.registry import MEASURES
from pipeline.metrics.spectrum import MEL_HOP, half_rate, mel_decibels

SHORTEST_S = 2.0  # shorter music is not compared
SILENT, CANCELLED = "silent", "silent in mono: its channels cancel"
NOT_FINITE = "not finite: a sample is NaN or infinite"
TOO_SHORT = f"shorter than {SHORTEST_S:g} s"
NO_MUSIC = (SILENT, CANCELLED, NOT_FINITE, TOO_SHORT)  # the reasons for which ``Features.music`` is absent
AUDIO = tuple(m.name for m in MEASURES if m.name.startswith("audio/") and m.name != "audio/duration_error_s")


@dataclass(frozen=True)
class Music:
    """Musical features of a recording.

    mono: ``[n]`` at 24 kHz.
    chroma: ``[12, frames]`` at 25 Hz, C first.
    leading: pitch class of the leading note ``[frames]``, -1 in silence.
    onsets: onset strength ``[frames]`` at 50 Hz.
    timbre: mean MFCCs ``[19]``.
    """

    mono: Tensor
    chroma: Tensor
    leading: Tensor
    onsets: Tensor
    timbre: Tensor

    def cut(self, samples: int) -> "Music":
        """The first ``samples`` at 24 kHz and their frames."""
        frames, onsets = 1 + samples // harmony.HOP, 1 + samples // MEL_HOP
        return replace(
            self,
            mono=self.mono[:samples],
            chroma=self.chroma[:, :frames],
            leading=self.leading[:frames],
            onsets=self.onsets[:onsets],
        )


@dataclass(frozen=True)
class Features:
    """Features of one recording.

    music: musical features, or the reason for their absence: one of ``NO_MUSIC``.
    sound: the ``audio/`` measures, or reasons.
    """

    seconds: float
    music: Music | str
    sound: Mapping[str, float | int | bool | str]


def extract(waves: Sequence[Tensor]) -> list[Features]:
    """Extract features of recordings, each ``[2, n]`` or ``[1, n]`` fp32 at 48 kHz; equal shapes form a batch.

    Raises:
        RequestError: a recording has no samples.
    """
    found: dict[int, Features] = {}
    for shape in dict.fromkeys(wave.shape for wave in waves):
        if 0 in shape:
            remedy = "nothing can be measured of it"
            raise RequestError("invalid_value", f"a recording of shape {list(shape)} has no samples", remedy)
        places = [k for k, wave in enumerate(waves) if wave.shape == shape]
        music = _music([waves[k] for k in places])
        found |= {k: _features(waves[k], heard) for k, heard in zip(places, music, strict=True)}
    return [found[k] for k in range(len(waves))]


def _features(wave: Tensor, heard: tuple[Music, float]) -> Features:
    seconds = wave.shape[1] / SAMPLE_RATE
    if not torch.stack(wave.aminmax()).isfinite().all():
        return Features(seconds, NOT_FINITE, dict.fromkeys(AUDIO, NOT_FINITE) | {"audio/finite": False})
    music, flatness = heard
    silent = bool(music.mono.abs().max() < SILENT_PEAK)
    measures = sound.sound_of(wave) | {"audio/flatness": SILENT if silent else flatness}
    if silent:
        cancels = bool((wave - wave.mean(1, keepdim=True)).abs().max() >= SILENT_PEAK)
        return Features(seconds, CANCELLED if cancels else SILENT, measures)
    short = seconds < SHORTEST_S
    return Features(seconds, TOO_SHORT if short else music, measures)


def _music(waves: Sequence[Tensor]) -> list[tuple[Music, float]]:
    """Music and spectral flatness of recordings of one shape; a constant offset is removed."""
    mix = torch.stack([wave.mean(0) for wave in waves])
    mono = half_rate(mix - mix.mean(1, keepdim=True))
    notes = harmony.note_energies(mono)
    levels, spectra = mel_decibels(mono)
    parts = zip(
        mono,
        harmony.chroma(notes),
        melody.leading_notes(notes),
        rhythm.onset_strength(levels),
        timbre.profile(levels),
        strict=True,
    )
    return [(Music(*part), float(flat)) for part, flat in zip(parts, sound.flatness(spectra), strict=True)]
