"""Display names of measures and parameters."""

from typing import Any

from acestep.sampling.setting import PARAMETERS
from pipeline.evaluation.objective import KEPT, MOVED, SCORE
from pipeline.metrics.registry import MEASURES, Measure

OBJECTIVE = (
    Measure(
        SCORE,
        "",
        "high",
        "harmonic mean of song kept and style moved; 0 where the cover failed, is lost or a copy",
        label="Score",
        scale=(0, 1),
    ),
    Measure(
        KEPT,
        "",
        "high",
        "how much of the song is still there: 1 all, 0 what chance gives",
        label="Song kept",
        scale=(0, 1),
    ),
    Measure(
        MOVED,
        "",
        "high",
        "how far the sound moved away from the source: 0 not at all, towards 1 far",
        label="Style moved",
        scale=(0, 1),
    ),
)
SHOWN = (*OBJECTIVE, *MEASURES)
LABELS = {measure.name: measure.label for measure in SHOWN if measure.label}
NOT_JUDGED = "not judged"
OUTCOMES = {
    "copy": "The cover is the source again: everything kept, nothing moved.",
    "lost": "Harmony and melody agree with the source no better than those of another song would.",
    "failed": "There is no cover; the cell says why.",
    NOT_JUDGED: "A required measure is missing, or the cover is too short to tell from chance.",
}


def parameter_label(name: str | None) -> str:
    """A parameter's display name, such as "guidance"; empty for None."""
    return PARAMETERS[name].label if name in PARAMETERS else (name or "").replace("_", " ")


def value(value: Any) -> str:
    """A parameter's value as text, such as "0.3"; None is the model's own default."""
    if value is None:
        return "model's own"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def format_value(name: str, given: Any) -> str:
    """A parameter with its value, such as "strength 0.30" or "guidance 9"; a setting's name is unchanged."""
    if name == "setting_name":
        return str(given)
    if given is None:
        return f"{value(None)} {parameter_label(name)}"
    shown = value(given)
    if _has_two_decimals(name) and len(shown) < len("0.30"):
        shown = f"{given:.2f}"
    return f"{parameter_label(name)} {shown}"


def _has_two_decimals(name: str) -> bool:
    slider = PARAMETERS[name].slider if name in PARAMETERS else None
    return slider is not None and slider[-1] == 0.01
