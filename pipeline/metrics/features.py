"""What a recording is compared by: computed once, on the device that its samples are on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from acestep.constants import SAMPLE_RATE, SILENT_PEAK
from acestep.errors import RequestError
from pipeline.metrics import harmony, melody, rhythm, sound, timbre
from pipeline.metrics.registry import MEASURES
from pipeline.metrics.spectrum import MEL_HOP, half_rate, mel_decibels

SHORTEST_S = 2.0  # of music in which anything can be recognised
NOT_FINITE = "not finite: a sample is NaN or infinite"
AUDIO = tuple(m.name for m in MEASURES if m.name.startswith("audio/") and m.name != "audio/duration_error_s")


@dataclass(frozen=True)
class Music:
    """What is heard in a recording.

    mono: ``[n]`` at 24 kHz. chroma: ``[12, frames]`` at 25 Hz, C first. leading: pitch class of the leading note
    ``[frames]``, -1 in silence. onsets: their strength ``[frames]`` at 50 Hz. timbre: mean MFCCs ``[19]``.
    """

    mono: Tensor
    chroma: Tensor
    leading: Tensor
    onsets: Tensor
    timbre: Tensor

    def cut(self, samples: int) -> "Music":
        """Its first samples at 24 kHz, and the frames around them."""
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
    """One recording: its music, and its sound by itself.

    music: or, where there is none, what the recording is instead, such as "silent".
    sound: the ``audio/`` measures; likewise.
    """

    seconds: float
    music: Music | str
    sound: Mapping[str, float | int | bool | str]


def extract(waves: Sequence[Tensor]) -> list[Features]:
    """Features of recordings, each ``[2, n]`` or ``[1, n]`` fp32 at 48 kHz; those of one shape are one batch.

    Raises:
        RequestError: one has no samples.
    """
    found: dict[int, Features] = {}
    for shape in dict.fromkeys(wave.shape for wave in waves):
        if 0 in shape:
            raise RequestError(f"a recording of shape {list(shape)} has no samples; nothing can be measured of it")
        places = [k for k, wave in enumerate(waves) if wave.shape == shape]
        music = _music([waves[k] for k in places])
        found |= {k: _features(waves[k], heard) for k, heard in zip(places, music, strict=True)}
    return [found[k] for k in range(len(waves))]


def _features(wave: Tensor, heard: tuple[Music, float]) -> Features:
    """All of one recording."""
    seconds = wave.shape[1] / SAMPLE_RATE
    if not torch.stack(wave.aminmax()).isfinite().all():
        return Features(seconds, NOT_FINITE, dict.fromkeys(AUDIO, NOT_FINITE) | {"audio/finite": False})
    music, flatness = heard
    silent = bool(music.mono.abs().max() < SILENT_PEAK)
    by_itself = sound.sound_of(wave) | {"audio/flatness": "silent" if silent else flatness}
    if silent:
        cancels = bool((wave - wave.mean(1, keepdim=True)).abs().max() >= SILENT_PEAK)
        return Features(seconds, "silent in mono: its channels cancel" if cancels else "silent", by_itself)
    short = seconds < SHORTEST_S
    return Features(seconds, f"shorter than {SHORTEST_S:g} s" if short else music, by_itself)


def _music(waves: Sequence[Tensor]) -> list[tuple[Music, float]]:
    """Music and spectral flatness of recordings of one shape; a constant is no sound."""
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
