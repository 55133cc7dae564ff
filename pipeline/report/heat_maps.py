"""Heat maps: a measure over two varied parameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes as Panel
from matplotlib.patches import Rectangle

from pipeline.report.labels import parameter_label, value
from pipeline.report.page_grid import values_along
from pipeline.report.plotting import AMOUNT, BETTER, INK, SOFT, PlotData, amount, figure, heading, png, titled


def heat_map(numbers: PlotData, measure: str, across: str, down: str) -> bytes:
    """The mean of a measure in each cell with its 95 % interval; a frame marks the best cell."""
    settings = list(numbers.settings.values())
    xs, ys = values_along(settings, across), values_along(settings, down)
    drawn = figure(2.0 + 1.05 * len(xs), 1.7 + 0.62 * len(ys))
    panel = drawn.add_subplot()
    means = np.full((len(ys), len(xs)), np.nan)
    for (x, y), setting_id in numbers.cells(across, down).items():
        entry = numbers.measured[measure].get(setting_id)
        if entry:
            row, column = ys.index(y), xs.index(x)
            means[row, column] = entry["mean"]
            _annotate(panel, row, column, entry)
    panel.imshow(means, cmap=AMOUNT, aspect="auto")
    _label(panel, xs, ys, across, down)
    notes = ["Mean over tracks and its 95 % interval."]
    if BETTER[measure]:
        best = np.nanargmax(means) if BETTER[measure] == "high" else np.nanargmin(means)
        row, column = divmod(int(best), len(xs))
        panel.add_patch(
            Rectangle(
                (column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=3, zorder=3, clip_on=False
            )
        )
        notes.append("Frame: the best cell.")
    heading(drawn, titled(measure), " ".join([*notes, *numbers.hidden()]))
    return png(drawn)


def _annotate(panel: Panel, row: int, column: int, entry: Mapping[str, Any]) -> None:
    low, high = entry["low"], entry["high"]
    text: dict[str, Any] = {"ha": "center", "va": "center", "color": INK}
    panel.text(
        column, row - (0 if low is None else 0.12), amount(entry["mean"]), fontsize=11, fontweight="bold", **text
    )
    if low is not None:
        panel.text(column, row + 0.22, f"{amount(low)}..{amount(high)}", fontsize=8, **text)


def _label(panel: Panel, xs: list[Any], ys: list[Any], across: str, down: str) -> None:
    panel.set_xticks(range(len(xs)), [value(x) for x in xs])
    panel.set_yticks(range(len(ys)), [value(y) for y in ys])
    panel.set_xticks(np.arange(len(xs) - 1) + 0.5, minor=True)
    panel.set_yticks(np.arange(len(ys) - 1) + 0.5, minor=True)
    panel.grid(which="minor", color="white", linewidth=3)
    panel.tick_params(which="both", length=0, labelsize=9.5, labelcolor=INK)
    panel.spines[:].set_visible(False)
    panel.set_xlabel(parameter_label(across), color=SOFT, fontsize=10)
    panel.set_ylabel(parameter_label(down), color=SOFT, fontsize=10)
