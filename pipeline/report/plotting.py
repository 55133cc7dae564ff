"""Matplotlib helpers shared by the figures, and the data of a comparison by setting."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes as Panel
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.objective import SCORE
from pipeline.report.labels import LABELS, SHOWN, parameter_label
from pipeline.report.page_grid import Axes, axes, setting_words

DPI = 110
INK, SOFT, LINE = "#1b1f23", "#505a64", "#dcdfe2"
BLUE, ORANGE = "#0a5fb4", "#b75a00"
# Dark text is legible on its darkest blue.
AMOUNT = LinearSegmentedColormap.from_list("amount", ["#f7fafc", "#a9d0ec", "#5aa5d8"])
ORDER = LinearSegmentedColormap.from_list("order", ["#e0a030", "#b0486a", "#2a3a8c"])
UNITS = {measure.name: measure.unit for measure in SHOWN}
BETTER = {measure.name: measure.better for measure in SHOWN}

Colour = tuple[float, float, float, float]


@dataclass(frozen=True)
class PlotData:
    """A comparison by setting id.

    settings: name and parameters, in the order of the comparison.
    measured: by measure, then by setting: mean, and the interval low..high, None for few tracks.
    """

    settings: Mapping[str, Mapping[str, Any]]
    measured: Mapping[str, Mapping[str, Mapping[str, Any]]]
    axes: Axes
    best: str | None

    @property
    def measures(self) -> list[str]:
        """The measures with a label that the comparison has."""
        return [name for name in LABELS if name in self.measured]

    def score(self, setting_id: str) -> float:
        """The mean score; -1 without one."""
        mean = self.measured.get(SCORE, {}).get(setting_id, {}).get("mean")
        return -1.0 if mean is None else mean

    def name(self, setting_id: str) -> str:
        """A setting's label, such as "strength 0.30, guidance 9"."""
        return setting_words(self.settings[setting_id], self.axes)

    def cells(self, across: str, down: str | None) -> dict[tuple[Any, Any], str]:
        """The setting at each pair of values, or the best-scoring of several."""
        found: dict[tuple[Any, Any], str] = {}
        for setting_id in sorted(self.settings, key=self.score):
            setting = self.settings[setting_id]
            found[setting[across], setting[down] if down else None] = setting_id
        return found

    def hidden(self) -> list[str]:
        """A note on the settings that ``cells`` leaves out."""
        others = ", ".join(map(parameter_label, self.axes.others))
        return [f"Where {others} varies: the setting with the best score."] if others else []


def numbers(comparison: Comparison) -> PlotData:
    """The plotted data of a comparison."""
    measured: dict[str, dict[str, Any]] = {}
    for entry in comparison.settings.to_pylist():
        if entry["mean"] is not None:
            measured.setdefault(entry["measure"], {})[entry["setting_id"]] = entry
    settings = {entry["setting_id"]: entry for entry in comparison.outcomes.to_pylist()}
    return PlotData(settings, measured, axes(comparison.outcomes), comparison.best)


def figure(width: float, height: float) -> Figure:
    """An empty figure; sizes in inches."""
    empty = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    empty.set_layout_engine("constrained", w_pad=0.1, h_pad=0.08)
    return empty


def heading(drawn: Figure, title: str, below: str = "") -> None:
    """Add a title, and a caption below the figure."""
    drawn.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    if below:
        drawn.supxlabel(below, x=0.01, ha="left", fontsize=8.5, color=SOFT)


def tidy(panel: Panel, grid: str = "y") -> None:
    """Remove the frame, and draw faint grid lines along "x", "y" or "both"."""
    panel.spines[["top", "right", "left", "bottom"]].set_visible(False)
    panel.grid(axis=grid, color=LINE, linewidth=0.8)  # type: ignore[arg-type]
    panel.set_axisbelow(True)
    panel.tick_params(length=0, labelsize=9, labelcolor=INK)


def titled(measure: str) -> str:
    """A measure's label with its unit, such as "Loudness (LUFS)"."""
    unit = UNITS[measure]
    return LABELS[measure] + (f" ({unit})" if unit else "")


def file_name(kind: str, measure: str) -> str:
    return f"{kind}_{LABELS[measure].lower().replace(' ', '_')}.png"


def amount(number: float) -> str:
    """A number with two decimals below 10, one above."""
    text = f"{number:.2f}" if abs(number) < 10 else f"{number:.1f}"
    return text.replace("-", "\u2212")


def colours(count: int) -> list[Colour]:
    """Colours of an ordered scale, distinguishable by lightness as well as by hue."""
    return [ORDER(k / max(1, count - 1)) for k in range(count)]


def png(drawn: Figure) -> bytes:
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
