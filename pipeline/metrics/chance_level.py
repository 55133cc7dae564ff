"""Chance level from unrelated pairs (sources and covers of other tracks), and the verdict ok, copy or lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.metrics.alignment import align
from pipeline.metrics.compute import chance_measures, cut_to_common_length
from pipeline.metrics.features import Features

MIN_PAIRS = 56  # pairs of eight tracks; with fewer, one duplicate song would determine the 95th percentile
SHORTEST_S = 10.0  # shorter unrelated music agrees by chance: 0.25 at 5 s, 0.06 at 24 s
USUAL_P95 = 0.05  # default 95th percentile of both measures for "lost", from 64 renders of 8 songs
COPIED = 0.9  # threshold of harmony excess and waveform correlation for "copy"
SAME_SOUND_DB = 5.0  # threshold of the MFCC distance; transcoded copies are within 3, other genres above 18
HARMONY, MELODY = "harmony/chroma_excess", "melody/salience_excess"
TIMBRE, WAVEFORM = "timbre/mfcc_distance", "copy/waveform_corr"


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


def outcome(values: Mapping[str, Any], chance: ChanceLevel) -> tuple[str | None, str]:
    """Verdict on a cover and its reason: "ok", "copy" (of its source) or "lost" (song not recognizable).

    The verdict is None if it cannot be determined.

    Args:
        values: measures by name, as in a result row.
    """
    harmony, melody, timbre, waveform = (values.get(name) for name in (HARMONY, MELODY, TIMBRE, WAVEFORM))
    if waveform is not None and waveform > COPIED:
        return "copy", f"{WAVEFORM} {waveform:.2f} is over {COPIED}"
    if harmony is not None and timbre is not None and harmony > COPIED and timbre < SAME_SOUND_DB:
        return "copy", f"{HARMONY} {harmony:.2f} is over {COPIED}, {TIMBRE} {timbre:.1f} under {SAME_SOUND_DB}"
    nothing = [text for text in values.get("unmeasured") or () if text.startswith(f"{HARMONY}: the cover is ")]
    if nothing:
        return "lost", nothing[0].removeprefix(f"{HARMONY}: ")
    if harmony is None or melody is None:
        return None, f"{HARMONY if harmony is None else MELODY} could not be measured"
    seconds = values.get("duration_s")
    if seconds is not None and seconds < SHORTEST_S:
        return None, f"{seconds:.1f} s are too few to tell from chance; {SHORTEST_S:g} s are needed"
    measured = chance.pairs >= MIN_PAIRS
    limits = [chance.p95[name] if measured and name in chance.p95 else USUAL_P95 for name in (HARMONY, MELODY)]
    told = ", ".join(
        f"{name} {value:.2f} (chance {limit:.2f})"
        for name, value, limit in zip((HARMONY, MELODY), (harmony, melody), limits, strict=True)
    )
    if not measured:
        told += f"; chance is a usual one, the run has {chance.pairs} unrelated pairs and {MIN_PAIRS} are needed"
    return ("lost" if harmony < limits[0] and melody < limits[1] else "ok"), told
