"""How the covers of a folder are judged and shown."""

from dataclasses import dataclass, field

from acestep.errors import RequestError
from pipeline.evaluation.objective import Objective


@dataclass(frozen=True)
class FindingsSpec:
    """How to judge.

    listen_tracks: how many tracks the listening page shows; 0 makes none.

    Raises:
        RequestError: it is below zero.
    """

    objective: Objective = field(default_factory=Objective)
    listen_tracks: int = 6
    pictures: bool = True

    def __post_init__(self) -> None:
        if self.listen_tracks < 0:
            reason = "may not be below 0"
            raise RequestError("out_of_range", reason, "0 makes no page", "listen_tracks", self.listen_tracks)
