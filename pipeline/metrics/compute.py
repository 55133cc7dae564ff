"""Compute the default group of measures for covers and their source."""

from typing import NamedTuple

from pipeline.metrics import melody, rhythm, structure, timbre, waveform_copy
from pipeline.metrics.alignment import Alignment, align, excess, overlap, short_loop_reason
from pipeline.metrics.features import Features, Music
from pipeline.metrics.harmony import FRAME_RATE, HOP
from pipeline.metrics.registry import MEASURES
from pipeline.metrics.sound import Found

DEFAULT_GROUP = tuple(measure.name for measure in MEASURES if not measure.extra)
BESIDE_SOURCE = tuple(name for name in DEFAULT_GROUP if not name.startswith("audio/"))


class MeasureResult(NamedTuple):
    """Values of one cover, and the reason for each None."""

    values: dict[str, float | int | bool | None]
    unmeasured: dict[str, str]


def default_measures(source: Features, cover: Features) -> Found:
    """The measures of ``DEFAULT_GROUP`` in their order; a text is the reason for a missing value."""
    measures: Found = dict(cover.sound) | {"audio/duration_error_s": cover.seconds - source.seconds}
    if isinstance(source.music, Music) and isinstance(cover.music, Music):
        measures |= compare(source.music, cover.music)
    else:
        measures |= dict.fromkeys(BESIDE_SOURCE, incomparable(source, cover))
    return {name: measures[name] for name in DEFAULT_GROUP}


def split_reasons(measures: Found) -> MeasureResult:
    """Separate values from reasons (texts)."""
    values = {name: None if isinstance(value, str) else value for name, value in measures.items()}
    return MeasureResult(values, {name: value for name, value in measures.items() if isinstance(value, str)})


def incomparable(source: Features, cover: Features) -> str:
    """The reason why two recordings cannot be compared, or ""."""
    for name, recording in (("source", source), ("cover", cover)):
        if isinstance(recording.music, str):
            return describe_missing_music(name, recording.music)
    return ""


def describe_missing_music(name: str, reason: str) -> str:
    """The reason for missing values where a recording, "source" or "cover", has no music."""
    return f"the {name} is {reason}"


def compare(source: Music, cover: Music) -> Found:
    """All measures of ``BESIDE_SOURCE``; a text is the reason for a missing value."""
    source, cover = cut_to_common_length(source, cover)
    fit = align(source.chroma, cover.chroma)
    onset_lag = round(fit.lag * rhythm.ONSET_RATE / FRAME_RATE)
    overlapping = overlap(source.chroma, cover.chroma, fit.lag)
    return chance_measures(source, cover, fit) | {
        "harmony/chroma_pearson": fit.pearson,
        "harmony/key_shift": fit.best_key,
        "align/lag_s": fit.lag / FRAME_RATE,
        "structure/ssm_corr": structure.same_structure(*overlapping),
        "structure/repetition_p90": structure.repetition(cover.chroma),
        "rhythm/onset_corr": rhythm.onset_correlation(source.onsets, cover.onsets, onset_lag),
        "rhythm/tempo_ratio_octave": rhythm.tempo_ratio(source.onsets, cover.onsets),
        "copy/waveform_corr": waveform_copy.waveform_correlation(source.mono, cover.mono, HOP * fit.lag),
    }


def chance_measures(source: Music, cover: Music, fit: Alignment) -> Found:
    """Measures for which a chance level is determined: harmony, melody and timbre."""
    loop = short_loop_reason(source.chroma)
    return {
        "harmony/chroma_excess": loop or excess(fit.pearson, fit.chance),
        "harmony/chroma_excess_any_key": loop or excess(fit.any_key, fit.any_key_chance),
        "melody/salience_excess": loop or excess(*melody.agreement(source.leading, cover.leading, fit)),
        "timbre/mfcc_distance": timbre.distance(source.timbre, cover.timbre),
    }


def cut_to_common_length(source: Music, cover: Music) -> tuple[Music, Music]:
    samples = min(len(source.mono), len(cover.mono))
    return source.cut(samples), cover.cut(samples)
