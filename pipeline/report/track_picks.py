"""Selects the tracks that the listening page shows, with the reason for each."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluation.objective import OUTCOME, SCORE
from pipeline.report.page_grid import only_covers

TROUBLES = {
    "lost": "most covers that lost the song",
    "copy": "most covers that are copies",
    "failed": "most covers that failed",
}
FILL = "next in order of track_id"


@dataclass(frozen=True)
class TrackPick:
    """A track to show; ``rule`` is the displayed reason."""

    track_id: str
    rule: str


def pick_tracks(rows: pa.Table, max_tracks: int = 6) -> list[TrackPick]:
    """At most ``max_tracks`` tracks, deterministic for the same rows: the best, the median and the worst by mean
    score, those with the most lost, copied or failed covers, then others in order of track_id.

    A track picked by several rules is shown once, under the first; ties go to the lower track_id.
    """
    tracks = _by_track(only_covers(rows))
    scored = sorted((t for t in tracks if t[SCORE] is not None), key=lambda t: (-t[SCORE], t["track_id"]))
    places = {"best": 0, "median": (len(scored) - 1) // 2, "worst": -1}
    samples = [
        TrackPick(scored[k]["track_id"], f"{rule} track by mean score ({scored[k][SCORE]:.2f})")
        for rule, k in places.items()
        if scored
    ]
    for outcome, rule in TROUBLES.items():
        worst = max(tracks, key=lambda t: t[outcome], default=None)  # the first of equals
        if worst and worst[outcome]:
            samples.append(TrackPick(worst["track_id"], f"{rule} ({worst[outcome]})"))
    samples += [TrackPick(t["track_id"], FILL) for t in tracks]
    by_first_rule = {sample.track_id: sample for sample in reversed(samples)}
    return [sample for sample in samples if by_first_rule[sample.track_id] is sample][:max_tracks]


def _by_track(rows: pa.Table) -> list[dict[str, Any]]:
    """A dict per track, in order of track_id: its mean score, and its number of covers of each kind of trouble."""
    outcome = pc.fill_null(rows[OUTCOME], "")
    troubled = {name: pc.equal(outcome, name) for name in TROUBLES}
    troubled["failed"] = pc.or_(troubled["failed"], pc.not_equal(rows["status"], "ok"))
    counts = {name: pc.cast(mask, pa.int64()) for name, mask in troubled.items()}
    flat = pa.table({"track_id": rows["track_id"], SCORE: pc.cast(rows[SCORE], pa.float64()), **counts})
    grouped = flat.group_by("track_id").aggregate([(SCORE, "mean"), *((name, "sum") for name in TROUBLES)])
    return grouped.rename_columns(["track_id", SCORE, *TROUBLES]).sort_by("track_id").to_pylist()
