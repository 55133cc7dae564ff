"""Chance level: measures of unrelated pairs, which are sources and covers of other tracks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from pipeline.metrics.alignment import align
from pipeline.metrics.compute import chance_measures, cut_to_common_length
from pipeline.metrics.features import Features

MIN_PAIRS = 56  # pairs of eight tracks; with fewer, one duplicate song would determine the 95th percentile
SHORTEST_S = 10.0  # shorter unrelated music agrees by chance: 0.25 at 5 s, 0.06 at 24 s


@dataclass(frozen=True)
class ChanceLevel:
    """Measures of unrelated pairs, as plain JSON values.

    mean, p95: by measure, over the pairs for which it is defined.
    """

    pairs: int = 0
    mean: Mapping[str, float] = field(default_factory=dict)
    p95: Mapping[str, float] = field(default_factory=dict)


def measure_chance(
    sources: Sequence[tuple[str, Features]], outputs: Sequence[tuple[str, Features]]
) -> ChanceLevel:
    """Measure all pairs of a source and an output of another track; both are lists of (track_id, features)."""
    pairs = 0
    values: dict[str, list[float]] = {}
    for track, source in sources:
        for other, output in outputs:
            if track == other or isinstance(source.music, str) or isinstance(output.music, str):
                continue
            if min(source.seconds, output.seconds) < SHORTEST_S:
                continue
            pairs += 1
            a, b = cut_to_common_length(source.music, output.music)
            for name, value in chance_measures(a, b, align(a.chroma, b.chroma)).items():
                if not isinstance(value, str):
                    values.setdefault(name, []).append(value)
    tensors = {name: torch.tensor(measured) for name, measured in values.items()}
    return ChanceLevel(
        pairs,
        {name: float(tensor.mean()) for name, tensor in tensors.items()},
        {name: float(tensor.quantile(0.95)) for name, tensor in tensors.items()},
    )
