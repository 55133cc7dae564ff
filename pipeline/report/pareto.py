"""The trade-off between song kept and style moved, with the Pareto front."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes as Panel
from matplotlib.colors import Normalize

from pipeline.evaluation.objective import KEPT, MOVED, SCORE
from pipeline.report.labels import parameter_label
from pipeline.report.plotting import INK, LINE, ORANGE, ORDER, SOFT, PlotData, figure, heading, png, tidy, titled

NEAR = 0.035  # of the unit square: closer labels would overlap


def trade_off(numbers: PlotData, front: Sequence[str]) -> bytes:
    """Every setting at its means with 95 % intervals, the Pareto front, and lines of equal score."""
    kept, moved = numbers.measured[KEPT], numbers.measured[MOVED]
    shown = [setting_id for setting_id in numbers.settings if setting_id in kept and setting_id in moved]
    drawn = figure(8.2, 6.8)
    panel = drawn.add_subplot()
    _equal_scores(panel)
    for setting_id in shown:
        at, up = kept[setting_id], moved[setting_id]
        if at["low"] is not None:
            panel.hlines(up["mean"], at["low"], at["high"], color=LINE, linewidth=1.6, zorder=1)
        if up["low"] is not None:
            panel.vlines(at["mean"], up["low"], up["high"], color=LINE, linewidth=1.6, zorder=1)
    ordered = sorted((kept[one]["mean"], moved[one]["mean"]) for one in front)
    panel.plot(
        [x for x, _ in ordered], [y for _, y in ordered], color=INK, linewidth=1.2, linestyle="--", zorder=2
    )
    x, y = [kept[one]["mean"] for one in shown], [moved[one]["mean"] for one in shown]
    across = numbers.axes.across
    amounts = [numbers.settings[one][across] for one in shown] if across else []
    if amounts and all(isinstance(number, int | float) for number in amounts):
        norm = Normalize(min(amounts), max(amounts))
        points = panel.scatter(
            x, y, c=amounts, cmap=ORDER, norm=norm, s=52, edgecolor="white", linewidth=1, zorder=3
        )
        bar = drawn.colorbar(points, ax=panel, shrink=0.6, aspect=28, pad=0.02)
        bar.set_label(parameter_label(across), color=SOFT, fontsize=9)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=9)
    else:
        panel.scatter(x, y, color=INK, s=52, edgecolor="white", linewidth=1, zorder=3)
    _name(panel, numbers, front)
    panel.set_xlabel(titled(KEPT), fontsize=10, color=SOFT)
    panel.set_ylabel(titled(MOVED), fontsize=10, color=SOFT)
    panel.set_xlim(0, 1.02)
    panel.set_ylim(0, 1.02)
    tidy(panel, "both")
    heading(
        drawn,
        "What stays of the song, and how far the style moves",
        "Means over tracks and 95 % intervals. Dashed: no setting is better in both. Dotted: equal score.",
    )
    return png(drawn)


def _equal_scores(panel: Panel) -> None:
    """Draw the lines on which the harmonic mean is 0.2, 0.4, 0.6 and 0.8."""
    for level in (0.2, 0.4, 0.6, 0.8):
        kept = np.linspace(level / 2 + 0.005, 1.02, 200)
        moved = level * kept / (2 * kept - level)
        panel.plot(kept, moved, color=SOFT, linewidth=0.7, linestyle=":", alpha=0.7, zorder=0)
        edge = (1.02, level * 1.02 / (2.04 - level))
        panel.annotate(
            f"{level:g}", edge, xytext=(3, 0), textcoords="offset points", fontsize=8, color=SOFT, va="center"
        )


def _name(panel: Panel, numbers: PlotData, front: Sequence[str]) -> None:
    """Label the points of the front without overlaps, the best one first."""
    named: list[tuple[float, float]] = []
    for setting_id in sorted(front, key=numbers.score, reverse=True):
        x, y = (numbers.measured[measure][setting_id]["mean"] for measure in (KEPT, MOVED))
        if any(abs(x - a) < 8 * NEAR and abs(y - b) < NEAR for a, b in named):
            continue
        named.append((x, y))
        best = setting_id == numbers.best and SCORE in numbers.measured
        text = numbers.name(setting_id) + (" (best score)" if best else "")
        weight, ink = ("bold", ORANGE) if best else ("normal", INK)
        panel.annotate(
            text,
            (x, y),
            xytext=(7, 6),
            textcoords="offset points",
            fontsize=8.5,
            fontweight=weight,
            color=ink,
            zorder=4,
        )
