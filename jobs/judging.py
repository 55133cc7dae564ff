"""How a configuration says covers are to be judged."""

from typing import Any

from pipeline.evaluation.objective import Objective
from pipeline.report.spec import FindingsSpec


def findings_of(values: dict[str, Any]) -> FindingsSpec:
    """How to judge, taken out of a configuration's ``values``.

    Raises:
        RequestError: the objective is no objective.
    """
    return FindingsSpec(objective_of(values), values.pop("listen_tracks"))


def objective_of(values: dict[str, Any]) -> Objective:
    """What makes one cover better than another, taken out of a configuration's ``values``.

    Raises:
        RequestError: it names no measures that say so.
    """
    given = values.pop("objective")
    return Objective(**given | {"kept": tuple(given["kept"])})
