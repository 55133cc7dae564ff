"""The tracks that are shown follow a stated rule."""

import random

import pyarrow as pa
import pytest

from pipeline.report.track_picks import FILL, pick_tracks
from tests.pipeline.report.covers import cover, failed, judged, table


def scored(track: str, score: float | None, count: int = 2) -> list[dict]:
    return [cover(track, 0.5, float(g)) | {"objective/score": score} for g in range(1, count + 1)]


def test_the_best_median_and_worst_tracks_come_first_then_one_of_each_trouble() -> None:
    scores = {"a": 0.5, "b": 0.9, "c": 0.1, "d": 0.4, "e": 0.6, "f": 0.55, "g": 0.45, "h": 0.56}
    rows = [row for track, score in scores.items() for row in scored(track, score)]
    rows += [judged(cover("d", 0.5, 9.0), "lost"), judged(cover("e", 0.5, 9.0), "copy")]
    rows += [failed(cover("f", 0.5, 9.0)), failed(cover("g", 0.5, 9.0)), failed(cover("g", 0.5, 8.0))]
    random.Random(3).shuffle(rows)
    chosen = [(sample.track_id, sample.rule) for sample in pick_tracks(table(rows))]
    # Means with the zeros of the troubled covers: b .90, h .56, a .50, e .40, f .37, d .27, g .23, c .10
    assert chosen == [
        ("b", "best track by mean score (0.90)"),
        ("e", "median track by mean score (0.40)"),
        ("c", "worst track by mean score (0.10)"),
        ("d", "most covers that lost the song (1)"),
        ("g", "most covers that failed (2)"),
        ("a", FILL),
    ]


def test_the_order_of_rows_plays_no_part() -> None:
    rows = [cover(f"t{k}", strength, 7.0) for k in range(9) for strength in (0.2, 0.8)]
    chosen = pick_tracks(table(rows))
    random.Random(1).shuffle(rows)
    assert pick_tracks(table(rows)) == chosen
    assert len({sample.track_id for sample in chosen}) == 6


def test_ties_go_to_the_lower_track_id() -> None:
    rows = [row for track in "cab" for row in scored(track, 0.5)]
    assert [sample.track_id for sample in pick_tracks(table(rows))] == ["a", "b", "c"]


@pytest.mark.parametrize("max_tracks", [0, 1, 2])
def test_no_more_than_asked_for(max_tracks: int) -> None:
    rows = [cover(f"t{k}", 0.5, 7.0) for k in range(9)]
    assert len(pick_tracks(table(rows), max_tracks)) == max_tracks


def test_tracks_without_a_score_are_filled_in() -> None:
    rows = table(scored("b", None) + scored("a", None))
    rows = rows.set_column(
        rows.column_names.index("objective/score"), "objective/score", pa.nulls(len(rows), pa.float64())
    )
    assert [(sample.track_id, sample.rule) for sample in pick_tracks(rows)] == [("a", FILL), ("b", FILL)]


def test_a_refused_track_is_none_to_show() -> None:
    refused = cover("bad", 0.5, 7.0) | {"status": "rejected", "setting_id": None}
    assert [sample.track_id for sample in pick_tracks(table([cover("good", 0.5, 7.0), refused]))] == ["good"]
    assert pick_tracks(table([refused]).slice(0, 0)) == []
