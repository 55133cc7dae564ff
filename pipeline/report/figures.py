"""All figures of a comparison."""

import pyarrow as pa

from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.objective import KEPT, MOVED, SCORE
from pipeline.report.distributions import distributions
from pipeline.report.dose_response import STRENGTH, dose_response
from pipeline.report.heat_maps import heat_map
from pipeline.report.pareto import trade_off
from pipeline.report.plotting import file_name, numbers

OBJECTIVE = (SCORE, KEPT, MOVED)


def draw_figures(rows: pa.Table, comparison: Comparison) -> dict[str, bytes]:
    """PNG files by name, of the figures whose axes vary and whose measures exist.

    ``heat_map_*``: a measure over the first two varied parameters. ``dose_response*``: along the strength.
    ``distributions*``: covers of each setting. ``trade_off``: kept against moved.

    Args:
        rows: one for each cover, with its objective.
    """
    drawn = numbers(comparison)
    across, down = drawn.axes.across, drawn.axes.down
    groups = {
        "": [name for name in drawn.measures if name in OBJECTIVE],
        "_measures": [name for name in drawn.measures if name not in OBJECTIVE],
    }
    made: dict[str, bytes] = {}
    if across and down:
        made |= {file_name("heat_map", name): heat_map(drawn, name, across, down) for name in drawn.measures}
    for group, measures in groups.items():
        if measures and across == STRENGTH:
            made[f"dose_response{group}.png"] = dose_response(drawn, measures)
        if measures:
            made[f"distributions{group}.png"] = distributions(rows, drawn, measures)
    if comparison.front:
        made["trade_off.png"] = trade_off(drawn, comparison.front)
    return made
