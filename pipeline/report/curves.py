"""Dose and response: the key measures along the cover strength."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes as Panel
from matplotlib.lines import Line2D

from pipeline.report.drawing import SOFT, Colour, Numbers, colours, figure, heading, png, tidy, titled
from pipeline.report.grid import values_along
from pipeline.report.labels import parameter, value

STRENGTH = "audio_cover_strength"
MARKERS = "osD^vP*X"
PANELS_ACROSS = 3


def dose_response(numbers: Numbers) -> bytes:
    """A panel for each key measure: its mean along the strength with the 95 % interval, a line for each value of
    the second parameter; the flow time of the switch, where each strength has one, on top.
    """
    down = numbers.axes.down
    settings = list(numbers.settings.values())
    strengths, lines = values_along(settings, STRENGTH), values_along(settings, down)
    cells, hues = numbers.cells(STRENGTH, down), colours(len(lines))
    rows = -(-len(numbers.measures) // PANELS_ACROSS)
    drawn = figure(11, 1.5 + 2.3 * rows)
    panels = drawn.subplots(rows, PANELS_ACROSS, sharex=True, squeeze=False)
    for panel in panels.flat[len(numbers.measures) :]:
        panel.set_visible(False)
    for panel, measure in zip(panels.flat, numbers.measures, strict=False):
        for k, line in enumerate(lines):
            found = [(x, numbers.measured[measure].get(cells.get((x, line), ""))) for x in strengths]
            _draw(panel, [(x, entry) for x, entry in found if entry], hues[k], MARKERS[k % len(MARKERS)])
        panel.set_title(titled(measure), loc="left", fontsize=10.5, fontweight="bold")
        tidy(panel)
    switch = _switch_times(numbers, strengths)
    for panel in panels[0]:
        if switch:
            top = panel.secondary_xaxis("top")
            top.set_xticks(strengths, switch)
            top.tick_params(length=0, labelsize=8, labelcolor=SOFT)
            top.spines["top"].set_visible(False)
            top.set_xlabel("flow time of the switch, 1 noise .. 0 data", fontsize=8, color=SOFT)
    for k, panel in enumerate(panels.flat[: len(numbers.measures)]):
        if k + PANELS_ACROSS >= len(numbers.measures):
            panel.set_xticks(strengths, [value(x) for x in strengths])
            panel.tick_params(labelbottom=True)
            panel.set_xlabel(parameter(STRENGTH), fontsize=9, color=SOFT)
    if down:
        handles = [
            Line2D([], [], color=hues[k], marker=MARKERS[k % len(MARKERS)], markersize=5, label=value(line))
            for k, line in enumerate(lines)
        ]
        drawn.legend(handles=handles, title=parameter(down), loc="outside right upper", frameon=False, fontsize=9)
    told = ["Means over tracks; bands are 95 % intervals.", *numbers.hidden()]
    heading(drawn, "What strength does", " ".join(told))
    return png(drawn)


def _draw(panel: Panel, found: Sequence[tuple[float, Mapping[str, Any]]], hue: Colour, marker: str) -> None:
    panel.plot(
        [x for x, _ in found], [entry["mean"] for _, entry in found], color=hue, marker=marker, markersize=4.5
    )
    known = [(x, entry["low"], entry["high"]) for x, entry in found if entry["low"] is not None]
    if known:
        x, low, high = zip(*known, strict=True)
        panel.fill_between(x, low, high, color=hue, alpha=0.12, linewidth=0)


def _switch_times(numbers: Numbers, strengths: list[float]) -> list[str]:
    """The flow time of each strength's switch, as text; none where a strength has several."""
    times: dict[float, set[float | None]] = {strength: set() for strength in strengths}
    for setting in numbers.settings.values():
        times[setting[STRENGTH]].add(setting["t_switch"])
    if any(len(found) > 1 for found in times.values()) or all(found == {None} for found in times.values()):
        return []
    return ["never" if time is None else f"{time:.2f}" for (time,) in times.values()]
