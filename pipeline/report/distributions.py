"""Box plots of measures by setting."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes as Panel

from pipeline.evaluation.objective import SCORE
from pipeline.report.plotting import BLUE, INK, ORANGE, SOFT, PlotData, figure, heading, png, tidy, titled

MAX_SETTINGS = 30
MAX_POINTS = 60  # of a setting; more would overlap
SPREAD = np.random.default_rng(0).uniform(-0.24, 0.24, MAX_POINTS)


def distributions(rows: pa.Table, numbers: PlotData, measures: Sequence[str]) -> bytes:
    """Box plots: a panel for each measure, a row for each setting.

    Each row shows the median, the middle half, the middle 90 % and, up to ``MAX_POINTS``, every cover.
    """
    best_first = sorted(numbers.settings, key=numbers.score, reverse=True)[:MAX_SETTINGS]
    shown = [setting_id for setting_id in numbers.settings if setting_id in best_first]
    drawn = figure(1.8 + 2.4 * len(measures), 1.5 + 0.27 * len(shown))
    panels = drawn.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    owner = np.asarray(rows["setting_id"].to_pylist(), dtype=object)
    masks = [owner == setting_id for setting_id in shown]
    for panel, measure in zip(panels, measures, strict=True):
        values = rows[measure].cast(pa.float64()).to_numpy()
        for line, mask in enumerate(masks):
            own = values[mask]
            _draw(panel, line, own[np.isfinite(own)], shown[line] == numbers.best)
        panel.set_title(titled(measure), loc="left", fontsize=10.5, fontweight="bold")
        tidy(panel, "x")
    panels[0].set_yticks(range(len(shown)), map(numbers.name, shown))
    panels[0].set_ylim(len(shown) - 0.4, -0.6)
    left_out = len(numbers.settings) - len(shown)
    rest = f" The {left_out} settings with the lowest scores are left out." if left_out else ""
    mark = " Orange: the setting with the best mean score." if numbers.best and SCORE in numbers.measured else ""
    heading(
        drawn,
        "How the covers of a setting spread",
        f"Box: middle half. Line: middle 90 %. Bar: median.{mark}{rest}",
    )
    return png(drawn)


def _draw(panel: Panel, line: int, values: Any, best: bool) -> None:
    if not len(values):
        panel.annotate(
            "none", (0.01, line), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=SOFT
        )
        return
    low, first, median, third, high = np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95))
    hue = ORANGE if best else BLUE
    panel.hlines(line, low, high, color=hue, linewidth=1)
    panel.barh(line, third - first, 0.56, first, color=hue, alpha=0.3)
    panel.vlines(median, line - 0.28, line + 0.28, color=INK, linewidth=1.8)
    if len(values) <= MAX_POINTS:
        panel.scatter(values, line + SPREAD[: len(values)], s=5, color=hue, alpha=0.55, linewidth=0)
