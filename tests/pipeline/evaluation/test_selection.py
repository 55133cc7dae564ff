"""The best cover of a track is the one a person would pick from its rows."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.evaluation.objective import DISTANCE, HALF_MOVED, SCORE, Objective
from pipeline.evaluation.selection import ALL_WORTHLESS, NONE_MEASURED, NONE_OK, SCHEMA, select

TEXT = ("track_id", "item_id", "setting_name", "status", "cover/outcome")
KEPT = ("harmony/chroma_excess", "melody/salience_excess")
ROWS = pa.schema(
    [
        *((name, pa.string()) for name in TEXT),
        ("seed", pa.int64()),
        *((name, pa.float64()) for name in (*KEPT, DISTANCE)),
    ]
)


def cover(item: str, kept: float | None, setting: str = "s0.50", seed: int = 0, **values: Any) -> dict[str, Any]:
    told = {"track_id": item[0], "item_id": item, "setting_name": setting, "seed": seed, "status": "ok"}
    return told | {"cover/outcome": "ok", DISTANCE: HALF_MOVED} | dict.fromkeys(KEPT, kept) | values


def selected(*rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = select(pa.Table.from_pylist(list(rows), schema=ROWS))
    assert found.schema.equals(SCHEMA)
    assert found["track_id"].to_pylist() == sorted(found["track_id"].to_pylist())
    return {row["track_id"]: row for row in found.to_pylist()}


def test_the_highest_score_is_taken_over_seeds_and_settings() -> None:
    found = selected(
        cover("b1", 0.5), cover("a1", 0.5), cover("a2", 0.9, seed=1), cover("a3", 0.7, "s0.60"), cover("a4", None)
    )
    assert (found["a"]["item_id"], found["a"]["seed"], found["a"]["candidates"]) == ("a2", 1, 3)
    best, next_best = (2 * kept * 0.5 / (kept + 0.5) for kept in (0.9, 0.7))
    assert found["a"][SCORE] == pytest.approx(best)
    assert found["a"]["margin"] == pytest.approx(best - next_best)
    assert (found["b"]["item_id"], found["b"]["margin"], found["b"]["candidates"], found["b"]["reason"]) == (
        "b1",
        None,
        1,
        "",
    )


def test_equal_covers_are_taken_by_setting_name_and_then_seed() -> None:
    rows = [cover("a1", 0.5, "s0.60", 0), cover("a2", 0.5, "s0.50", 7), cover("a3", 0.5, "s0.50", 3)]
    for order in (rows, rows[::-1], [rows[1], rows[2], rows[0]]):
        found = selected(*order)["a"]
        assert (found["item_id"], found["margin"]) == ("a3", 0.0)


def test_what_lost_the_song_or_copied_it_is_never_taken() -> None:
    found = selected(cover("a1", 0.9, **{"cover/outcome": "copy"}), cover("a2", 0.0, **{"cover/outcome": None}))
    assert found["a"]["item_id"] == "a2"


def test_tracks_without_a_candidate_are_listed_with_the_reason() -> None:
    found = selected(
        cover("a1", None, status="failed", **{"cover/outcome": "failed"}),
        cover("a2", None, status="rejected", **{"cover/outcome": None}),
        cover("b1", 0.9, **{"cover/outcome": "copy"}),
        cover("b2", 0.0, **{"cover/outcome": "lost"}),
        cover("c1", None),
        cover("c2", 0.0, **{"cover/outcome": "lost"}),
        cover("d1", 0.5),
    )
    assert [found[track]["reason"] for track in "abcd"] == [NONE_OK, ALL_WORTHLESS, NONE_MEASURED, ""]
    assert [found[track]["item_id"] for track in "abcd"] == [None, None, None, "d1"]
    assert [found[track]["candidates"] for track in "abcd"] == [0, 0, 0, 1]


def test_the_objective_decides() -> None:
    rows = [cover("a1", 0.5, **{KEPT[0]: 0.9}), cover("a2", 0.5, **{KEPT[1]: 0.8})]
    table = pa.Table.from_pylist(rows, schema=ROWS)
    assert select(table)["item_id"].to_pylist() == ["a1"]
    assert select(table, Objective(kept=KEPT[1:]))["item_id"].to_pylist() == ["a2"]


def test_no_rows_and_rows_of_no_track_give_nothing() -> None:
    assert selected() == {}
    assert selected(cover("a1", None, track_id=None, status="rejected")) == {}


def test_it_agrees_with_picking_by_hand_on_many_rows() -> None:
    rng = np.random.default_rng(0)
    rows = [
        cover(f"{'abcdefgh'[k % 8]}{k}", float(rng.random()), f"s0.{rng.integers(1, 4)}0", int(rng.integers(3)))
        for k in range(400)
    ]
    found = selected(*rows)
    for track in "abcdefgh":
        own = sorted((row for row in rows if row["track_id"] == track), key=lambda row: -row[KEPT[0]])
        assert found[track]["item_id"] == own[0]["item_id"]
        assert found[track]["candidates"] == len(own)
