"""Dose-response curves: measures along the cover strength."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes as Panel
from matplotlib.lines import Line2D

from pipeline.report.labels import parameter_label, value
from pipeline.report.page_grid import values_along
from pipeline.report.plotting import SOFT, Colour, PlotData, colours, figure, heading, png, tidy, titled

STRENGTH = "audio_cover_strength"
MARKERS = "osD^vP*X"
PANELS_ACROSS = 3
MAX_TIMES = 6  # labels of the upper axis


def dose_response(numbers: PlotData, measures: Sequence[str]) -> bytes:
    """A panel for each measure: its mean along the strength with the 95 % interval, a line for each value of the
    second parameter. The upper axis has the flow time of the switch ("-" without one), if unique per strength.
    """
    down = numbers.axes.down
    settings = list(numbers.settings.values())
    strengths = [strength for strength in values_along(settings, STRENGTH) if strength is not None]
    lines = values_along(settings, down)
    cells, looks = numbers.cells(STRENGTH, down), list(zip(colours(len(lines)), cycle(MARKERS), strict=False))
    rows = -(-len(measures) // PANELS_ACROSS)
    drawn = figure(10, 1.7 + 2.2 * rows)
    panels = drawn.subplots(rows, PANELS_ACROSS, sharex=True, squeeze=False)
    for panel in panels.flat[len(measures) :]:
        panel.set_visible(False)
    for panel, measure in zip(panels.flat, measures, strict=False):
        for line, look in zip(lines, looks, strict=True):
            found = [(x, numbers.measured[measure].get(cells.get((x, line), ""))) for x in strengths]
            _draw(panel, [(x, entry) for x, entry in found if entry], *look)
        panel.set_title(titled(measure), loc="left", fontsize=10.5, fontweight="bold")
        panel.set_xticks(strengths, [value(x) for x in strengths])
        tidy(panel)
    for panel in panels.flat[max(0, len(measures) - PANELS_ACROSS) : len(measures)]:
        panel.tick_params(labelbottom=True)
        panel.set_xlabel(parameter_label(STRENGTH), fontsize=9, color=SOFT)
    _tell_switch(panels[0], strengths, _switch_times(numbers, strengths))
    if down:
        keys = [
            Line2D([], [], color=hue, marker=marker, markersize=5, label=value(line))
            for line, (hue, marker) in zip(lines, looks, strict=True)
        ]
        drawn.legend(
            handles=keys, title=parameter_label(down), loc="outside right upper", frameon=False, fontsize=9
        )
    notes = ["Means over tracks; bands are 95 % intervals.", *numbers.hidden()]
    heading(drawn, "What strength does", " ".join(notes))
    return png(drawn)


def _draw(panel: Panel, found: Sequence[tuple[float, Mapping[str, Any]]], hue: Colour, marker: str) -> None:
    panel.plot(
        [x for x, _ in found], [entry["mean"] for _, entry in found], color=hue, marker=marker, markersize=4.5
    )
    known = [(x, entry["low"], entry["high"]) for x, entry in found if entry["low"] is not None]
    if known:
        x, low, high = zip(*known, strict=True)
        panel.fill_between(x, low, high, color=hue, alpha=0.12, linewidth=0)


def _tell_switch(panels: Iterable[Panel], strengths: Sequence[float], times: Sequence[str]) -> None:
    """Add an upper axis to each panel, if there are times."""
    every = -(-len(times) // MAX_TIMES)
    for panel in panels if times else ():
        top = panel.secondary_xaxis("top")
        top.set_xticks(strengths[::every], times[::every])
        top.tick_params(length=0, labelsize=8, labelcolor=SOFT)
        top.spines["top"].set_visible(False)
        top.set_xlabel("flow time of the switch, 1 noise .. 0 data", fontsize=8, color=SOFT)


def _switch_times(numbers: PlotData, strengths: Sequence[float]) -> list[str]:
    """The flow time of each strength's switch, as text; empty where a strength has several."""
    times: dict[float, set[float | None]] = {strength: set() for strength in strengths}
    for setting in numbers.settings.values():
        if setting[STRENGTH] in times:
            times[setting[STRENGTH]].add(setting["t_switch"])
    if any(len(found) > 1 for found in times.values()) or all(found == {None} for found in times.values()):
        return []
    return ["-" if time is None else f"{time:.2f}" for (time,) in times.values()]
