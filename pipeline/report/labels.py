"""What measures and parameters are called where people read them."""

from typing import Any

from pipeline.metrics.names import MEASURES, Measure
from pipeline.objective import KEPT, MOVED, SCORE

OBJECTIVE = (
    Measure(
        SCORE,
        "",
        "high",
        "harmonic mean of song kept and style moved; 0 where the cover failed, is lost or a copy",
    ),
    Measure(KEPT, "", "high", "how much of the song is still there: 1 all, 0 what chance gives"),
    Measure(MOVED, "", "high", "how far the sound moved away from the source: 0 not at all, towards 1 far"),
)
SHOWN = (*OBJECTIVE, *MEASURES)
LABELS = {
    SCORE: "Score",
    KEPT: "Song kept",
    MOVED: "Style moved",
    "harmony/chroma_excess": "Harmony",
    "melody/salience_excess": "Melody",
    "structure/ssm_corr": "Structure",
    "rhythm/onset_corr": "Rhythm",
    "timbre/mfcc_distance": "Timbre distance",
    "audio/lufs": "Loudness",
}
OUTCOMES = {
    "copy": "The cover is the source again: everything kept, nothing moved.",
    "lost": "Harmony and melody agree with the source no better than those of another song would.",
    "failed": "There is no cover; the cell says why.",
}


def parameter(name: str | None) -> str:
    """A parameter's name as words, such as "guidance scale"; empty for none."""
    return (name or "").replace("_", " ")


def value(value: Any) -> str:
    """A parameter's value, such as "0.3"; None is what the model does by itself."""
    if value is None:
        return "model's own"
    return f"{value:g}" if isinstance(value, float) else str(value)
