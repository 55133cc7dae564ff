"""The latents that encoder and decoder are taught: a small bottleneck of log spectra, and phasors of the lows.

An autoencoder of waveforms trained from random weights learns slowly. The bottleneck (an MLP on frames of log
spectra) is trained in a minute; its code is the target of the encoder and the input of the decoder, which then
learn independently of each other.
"""

import torch
from torch import Tensor, nn

from pipeline.demo_model.spectra import FEATURES, MELS, OCTAVES, SEMITONES, features, phasors

SPECTRAL = 24
CHANNELS = SPECTRAL + 2 * OCTAVES
HIDDEN = 256
NOISE = 0.2  # standard deviation of what is added to codes of variance 1: near codes must mean near sounds


class Teacher(nn.Module):
    """``[b, t, f]`` features to ``[b, t, 24]`` codes of mean 0 and variance 1, and back."""

    mean: Tensor
    std: Tensor
    code_mean: Tensor
    code_std: Tensor
    phase_std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("std", torch.ones(FEATURES))
        self.register_buffer("code_mean", torch.zeros(SPECTRAL))
        self.register_buffer("code_std", torch.ones(SPECTRAL))
        self.register_buffer("phase_std", torch.ones(2 * OCTAVES))
        layers = lambda first, last: nn.Sequential(  # noqa: E731
            nn.Linear(first, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, last)
        )
        self.narrow, self.widen = layers(FEATURES, SPECTRAL), layers(SPECTRAL, FEATURES)

    def code(self, x: Tensor) -> Tensor:
        return (self.narrow((x - self.mean) / self.std) - self.code_mean) / self.code_std

    def restore(self, code: Tensor) -> Tensor:
        return self.widen(code * self.code_std + self.code_mean) * self.std + self.mean

    @torch.no_grad()
    def latents(self, audio: Tensor) -> Tensor:
        """``[b, 2, s]`` -> ``[b, t, CHANNELS]``: spectral codes, then phasors."""
        return torch.cat((self.code(features(audio)), phasors(audio) / self.phase_std), dim=-1)


def bottleneck_loss(teacher: Teacher, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared error of standardised features ``[n, f]`` restored from noisy codes."""
    weight = torch.ones(FEATURES)
    weight[:SEMITONES], weight[SEMITONES + 2 * MELS :] = 1.5, 0.5
    wanted = (x - teacher.mean) / teacher.std
    code = teacher.narrow(wanted)
    found = teacher.widen(code + NOISE * torch.randn_like(code))
    error = (found - wanted).square()
    spread = (code.var(0) - 1).square().mean() + code.mean(0).square().mean()
    shared = (torch.corrcoef(code.T) - torch.eye(SPECTRAL)).square().mean()
    parts = {"notes": error[:, :SEMITONES].mean(), "mels": error[:, SEMITONES : SEMITONES + 2 * MELS].mean()}
    return (weight * error).mean() + 0.02 * spread + 0.02 * shared, parts
