"""Clips of sound to train the autoencoder on, read from the songs' files in place."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.demo_model.songs import audio_file
from pipeline.demo_model.spectra import HOP


class Clips:
    """Random clips of songs; the files are mapped, not read."""

    def __init__(self, folder: Path, seeds: Sequence[int]):
        self.songs = [np.load(audio_file(folder, seed), mmap_mode="r") for seed in seeds]

    def draw(self, draw: np.random.Generator, count: int, frames: int) -> Tensor:
        """``[count, 2, samples]`` of as many songs, genres and places."""
        clips = np.empty((count, 2, frames * HOP), np.float32)
        for clip in clips:
            song = self.songs[draw.integers(len(self.songs))]
            start = draw.integers(song.shape[-1] // HOP - frames + 1) * HOP
            clip[:] = song[draw.integers(len(song)), :, start : start + frames * HOP]
        return torch.from_numpy(clips / 32768)


def varied(audio: Tensor, draw: np.random.Generator) -> Tensor:
    """Another level each, now and then another tone or no stereo: what recordings of others may be like."""
    count, samples = len(audio), audio.shape[-1]
    gain = 10 ** (draw.uniform(-9, 2, count) / 20)
    audio = audio * torch.from_numpy(gain).float()[:, None, None]
    audio = torch.where(
        torch.from_numpy(draw.random(count) < 0.1)[:, None, None], audio.mean(1, keepdim=True), audio
    )
    if draw.random() < 0.3:
        octaves = torch.linspace(0, samples // 2, samples // 2 + 1).clamp_min(1).log2()
        bend = np.interp(octaves, np.linspace(0, 16, 7), draw.uniform(-6, 6, 7))
        curve = torch.from_numpy(10 ** (bend / 20)).float()
        audio = torch.fft.irfft(torch.fft.rfft(audio) * curve, samples)
    return audio
