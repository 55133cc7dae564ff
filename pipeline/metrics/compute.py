"""All measures of the default group, of covers beside their source."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.metrics import melody, rhythm, structure, timbre
from pipeline.metrics import waveform_copy as copying
from pipeline.metrics.alignment import Alignment, align, excess, overlap, short_loop_reason
from pipeline.metrics.features import Features, Music
from pipeline.metrics.harmony import FRAME_RATE, HOP
from pipeline.metrics.registry import MEASURES
from pipeline.metrics.sound import Found

DEFAULT_GROUP = tuple(measure.name for measure in MEASURES if not measure.extra)
BESIDE_SOURCE = tuple(name for name in DEFAULT_GROUP if not name.startswith("audio/"))


@dataclass(frozen=True)
class MeasureResult:
    """What one cover measures: a value for each of ``DEFAULT_GROUP``, and for each None its reason."""

    values: dict[str, float | int | bool | None]
    unmeasured: dict[str, str]


def measure(source: Features, outputs: Sequence[Features]) -> list[MeasureResult]:
    """Covers of one source, each beside it.

    Of different lengths, what both have is compared; only timbre and the ``audio/`` measures are of all that a
    recording has.
    """
    return [_measure(source, output) for output in outputs]


def _measure(source: Features, cover: Features) -> MeasureResult:
    found: Found = dict(cover.sound) | {"audio/duration_error_s": cover.seconds - source.seconds}
    if isinstance(source.music, Music) and isinstance(cover.music, Music):
        found |= compare(source.music, cover.music)
    else:
        found |= dict.fromkeys(BESIDE_SOURCE, incomparable(source, cover))
    return split_reasons({name: found[name] for name in DEFAULT_GROUP})


def split_reasons(found: Found) -> MeasureResult:
    """Values, and the reasons for those that are none."""
    values = {name: None if isinstance(value, str) else value for name, value in found.items()}
    return MeasureResult(values, {name: value for name, value in found.items() if isinstance(value, str)})


def incomparable(source: Features, cover: Features) -> str:
    """Why two recordings cannot be compared; "" where they can."""
    for name, recording in (("source", source), ("cover", cover)):
        if isinstance(recording.music, str):
            return f"the {name} is {recording.music}"
    return ""


def compare(source: Music, cover: Music) -> Found:
    """Every measure of ``BESIDE_SOURCE``; a text is the reason why there is no value."""
    source, cover = cut_to_common_length(source, cover)
    fit = align(source.chroma, cover.chroma)
    late = round(fit.lag * rhythm.ONSET_RATE / FRAME_RATE)
    mine, other = overlap(source.chroma, cover.chroma, fit.lag)
    return chance_measures(source, cover, fit) | {
        "harmony/chroma_pearson": fit.pearson,
        "harmony/key_shift": fit.best_key,
        "align/lag_s": fit.lag / FRAME_RATE,
        "structure/ssm_corr": structure.same_structure(mine, other),
        "structure/repetition_p90": structure.repetition(cover.chroma),
        "rhythm/onset_corr": rhythm.onset_correlation(source.onsets, cover.onsets, late),
        "rhythm/tempo_ratio_octave": rhythm.tempo_ratio(source.onsets, cover.onsets),
        "copy/waveform_corr": copying.waveform_correlation(source.mono, cover.mono, HOP * fit.lag),
    }


def chance_measures(source: Music, cover: Music, fit: Alignment) -> Found:
    """The measures that chance has a level of: what the cover kept of the song, and how far its sound moved."""
    loop = short_loop_reason(source.chroma)
    return {
        "harmony/chroma_excess": loop or excess(fit.pearson, fit.chance),
        "harmony/chroma_excess_any_key": loop or excess(fit.any_key, fit.any_key_chance),
        "melody/salience_excess": loop or excess(*melody.agreement(source.leading, cover.leading, fit)),
        "timbre/mfcc_distance": timbre.distance(source.timbre, cover.timbre),
    }


def cut_to_common_length(source: Music, cover: Music) -> tuple[Music, Music]:
    """Both cut to the length of the shorter."""
    samples = min(len(source.mono), len(cover.mono))
    return source.cut(samples), cover.cut(samples)
