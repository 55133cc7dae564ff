"""Verdict on a cover: ok, copy (of its source) or lost (the song is not recognizable)."""

from collections.abc import Mapping
from typing import Any

from pipeline.metrics.chance_level import MIN_PAIRS, SHORTEST_S, ChanceLevel
from pipeline.metrics.compute import describe_missing_music
from pipeline.metrics.features import NO_MUSIC

COPIED = 0.9  # threshold of harmony excess and waveform correlation for "copy"
SAME_SOUND_DB = 5.0  # threshold of the MFCC distance; transcoded copies are within 3, other genres above 18
USUAL_P95 = 0.05  # default 95th percentile of both measures for "lost", from 64 renders of 8 songs
HARMONY, MELODY = "harmony/chroma_excess", "melody/salience_excess"
TIMBRE, WAVEFORM = "timbre/mfcc_distance", "copy/waveform_corr"
# Entries of ``unmeasured`` for covers that have no music.
WITHOUT_MUSIC = {f"{HARMONY}: {text}": text for text in (describe_missing_music("cover", r) for r in NO_MUSIC)}


def verdict(values: Mapping[str, Any], chance: ChanceLevel) -> tuple[str | None, str]:
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
    reason = next((WITHOUT_MUSIC[text] for text in values.get("unmeasured") or () if text in WITHOUT_MUSIC), None)
    if reason:
        return "lost", reason
    if harmony is None or melody is None:
        return None, f"{HARMONY if harmony is None else MELODY} could not be measured"
    seconds = values.get("duration_s")
    if seconds is not None and seconds < SHORTEST_S:
        return None, f"{seconds:.1f} s are too few to tell from chance; {SHORTEST_S:g} s are needed"
    measured = chance.pairs >= MIN_PAIRS
    limits = [chance.p95[name] if measured and name in chance.p95 else USUAL_P95 for name in (HARMONY, MELODY)]
    reason = ", ".join(
        f"{name} {value:.2f} (chance {limit:.2f})"
        for name, value, limit in zip((HARMONY, MELODY), (harmony, melody), limits, strict=True)
    )
    if not measured:
        reason += f"; chance is a usual one, the run has {chance.pairs} unrelated pairs and {MIN_PAIRS} are needed"
    return ("lost" if harmony < limits[0] and melody < limits[1] else "ok"), reason
