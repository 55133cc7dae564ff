"""A genre classifier that shares nothing with the model it judges: logistic regression on mel levels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.demo_model.arrangers import GENRES
from pipeline.metrics.spectrum import half_rate, mel_decibels

PENALTY = 1e-3
STEPS = 100
CLIPS_AT_ONCE = 12


@dataclass(frozen=True)
class GenreClassifier:
    """Weights ``[f, genres]`` and bias over standardised descriptions."""

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def probabilities(self, audio: Tensor) -> Tensor:
        """Of each genre ``[b, genres]`` for ``[b, 2, s]``."""
        return self.of_descriptions(describe(audio))

    def of_descriptions(self, descriptions: Tensor) -> Tensor:
        """The same for what ``describe`` returned."""
        return ((descriptions - self.mean) / self.std @ self.weight + self.bias).softmax(-1)


def describe(audio: Tensor) -> Tensor:
    """Mean, spread and movement of the levels of 40 mel bands ``[b, 120]`` of ``[b, 2, s]``."""
    found = []
    for some in audio.split(CLIPS_AT_ONCE):
        levels, _ = mel_decibels(half_rate(some.mean(1)))
        movement = levels.diff(dim=-1).abs().mean(-1)
        found.append(torch.cat((levels.mean(-1), levels.std(-1), movement), dim=-1))
    return torch.cat(found)


def train_classifier(descriptions: Sequence[Tensor]) -> GenreClassifier:
    """Fit to descriptions ``[n, 120]`` of each genre, in the order of ``GENRES``."""
    x = torch.cat(list(descriptions))
    wanted = torch.cat([torch.full((len(some),), k) for k, some in enumerate(descriptions)])
    mean, std = x.mean(0), x.std(0).clamp_min(0.5)
    weight = torch.zeros(x.shape[1], len(GENRES), requires_grad=True)
    bias = torch.zeros(len(GENRES), requires_grad=True)
    standard = (x - mean) / std
    optimiser = torch.optim.LBFGS((weight, bias), max_iter=STEPS)

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(standard @ weight + bias, wanted) + PENALTY * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return GenreClassifier(mean, std, weight.detach(), bias.detach())
