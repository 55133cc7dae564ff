"""A comparison says what the covers say: means by hand, verdicts on paired tracks, and no verdict on too few."""

import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from pipeline.evaluation.comparison import Comparison, compare, explain
from pipeline.evaluation.objective import DISTANCE, HALF_MOVED, SCORE, Objective
from pipeline.metrics.chance_level import ChanceLevel
from pipeline.metrics.registry import MEASURES
from pipeline.report.findings import Findings
from pipeline.tracking.metrics import setting_metrics
from pipeline.workflows.console_findings import print_findings

HARMONY, MELODY = "harmony/chroma_excess", "melody/salience_excess"
TYPES = {"track_id": pa.string(), "setting_id": pa.string(), "setting_name": pa.string(), "seed": pa.int64()}
TYPES |= {"status": pa.string(), "cover/outcome": pa.string(), "audio_cover_strength": pa.float64()}
TYPES |= {
    "guidance_scale": pa.float64(),
    "blend": pa.string(),
    "t_switch": pa.float64(),
    "cover_steps": pa.int32(),
}
SCHEMA = pa.schema([*TYPES.items(), *((m.name, pa.bool_() if m.kind is bool else pa.float64()) for m in MEASURES)])

Kept = Callable[[int, int, int], float | None]


def cover(track: int, setting: int, seed: int, kept: float | None, **values: Any) -> dict[str, Any]:
    return {
        "track_id": f"t{track:03}",
        "setting_id": f"id{setting}",
        "setting_name": f"s{setting / 10:.2f}",
        "seed": seed,
        "status": "ok",
        "cover/outcome": "ok",
        "audio_cover_strength": setting / 10,
        "guidance_scale": 7.0,
        "blend": "switch",
        "t_switch": 1 - setting / 20,
        "cover_steps": setting,
        HARMONY: kept,
        MELODY: kept,
        DISTANCE: HALF_MOVED,
        "audio/finite": True,
    } | values


def covers(tracks: int, settings: int, seeds: int, kept: Kept) -> list[dict[str, Any]]:
    return [
        cover(track, setting, seed, kept(track, setting, seed))
        for track in range(tracks)
        for setting in range(settings)
        for seed in range(seeds)
    ]


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def row_of(found: pa.Table, **wanted: str) -> dict[str, Any]:
    (row,) = [row for row in found.to_pylist() if all(row[name] == value for name, value in wanted.items())]
    return row


def noisy(effect: Callable[[int], float], noise: float = 0.02) -> Kept:
    rng = np.random.default_rng(0)
    level = rng.uniform(-0.2, 0.2, 1000)
    return lambda track, setting, seed: 0.5 + level[track] + effect(setting) + rng.normal(0, noise)


def test_every_track_counts_once_whatever_its_seeds() -> None:
    rows = [cover(0, 1, 0, 0.2), cover(0, 1, 1, 0.4), cover(0, 1, 2, 0.6), cover(1, 1, 0, 0.8)]
    rows += [cover(2, 1, 0, None)]
    found = row_of(compare(table(rows)).settings, measure=HARMONY)
    assert found["mean"] == pytest.approx((0.4 + 0.8) / 2)
    assert found["sd"] == pytest.approx(np.std([0.2, 0.4, 0.6, 0.8], ddof=1))
    assert (found["n"], found["tracks"]) == (4, 2)
    assert found["low"] is found["high"] is None  # two tracks


def test_measures_that_no_cover_has_are_left_out() -> None:
    measures = set(compare(table(covers(2, 2, 1, lambda *_: 0.5))).settings["measure"].to_pylist())
    assert measures == {
        "objective/score",
        "objective/kept",
        "objective/moved",
        HARMONY,
        MELODY,
        DISTANCE,
        "audio/finite",
    }


def test_outcomes_are_counted_beside_what_varies() -> None:
    rows = [cover(0, 1, 0, 0.5), cover(1, 1, 0, 0.5, **{"cover/outcome": "lost"})]
    rows += [cover(2, 1, 0, 0.5, **{"cover/outcome": "copy"}), cover(3, 1, 0, 0.5, **{"cover/outcome": None})]
    failed = {"status": "failed", "cover/outcome": "failed", "t_switch": None, "cover_steps": None}
    rows += [cover(4, 1, 0, None, **failed), cover(5, 1, 0, None, **failed | {"status": "rejected"})]
    rows += [cover(0, 2, 0, 0.5, blend="velocity")]
    rows += [cover(9, 9, 0, None, setting_id=None, status="rejected")]  # a track that never got as far
    found = compare(table(rows[::-1])).outcomes
    assert found.column_names[2:7] == ["covers", "failed", "ok", "copy", "lost"]
    first, second = found.to_pylist()
    assert [first[name] for name in found.column_names[2:7]] == [6, 2, 1, 1, 1]
    assert (first["t_switch"], first["cover_steps"], first["blend"]) == (0.95, 1, "switch")
    assert (second["blend"], second["audio_cover_strength"], second["guidance_scale"]) == ("velocity", 0.2, 7.0)
    assert "infer_method" not in found.column_names


def test_a_failed_cover_lowers_the_score_and_no_other_measure() -> None:
    failed = {"status": "failed", "cover/outcome": "failed", DISTANCE: None}
    found = compare(table([cover(0, 1, 0, 0.5), cover(1, 1, 0, None, **failed)])).settings
    assert row_of(found, measure=SCORE)["mean"] == pytest.approx(0.25)
    assert row_of(found, measure=HARMONY)["mean"] == pytest.approx(0.5)


def test_only_covers_that_both_settings_have_are_compared() -> None:
    rows = [cover(track, setting, 0, 0.3 + 0.1 * setting) for track in range(8) for setting in (1, 2)]
    rows += [cover(track, 1, 1, 0.9) for track in range(8)] + [cover(20, 1, 0, 1.0)]
    found = row_of(compare(table(rows)).pairs, measure=HARMONY)
    assert (found["setting_a"], found["setting_b"]) == ("id1", "id2")  # the best by score first
    assert found["difference"] == pytest.approx(-0.1)
    assert found["tracks"] == 8
    assert found["p"] == pytest.approx(2 / 2**8)


def test_a_real_effect_is_found_and_none_is_not_told_apart() -> None:
    found = compare(table(covers(10, 4, 2, noisy(lambda setting: 0.0 if setting else -0.1))))
    assert found.best in ("id1", "id2", "id3")
    clear = row_of(found.pairs, measure=SCORE, setting_a=found.best, setting_b="id0")
    assert clear["distinguishable"] is True
    assert 0 < clear["low"] <= clear["difference"] <= clear["high"]
    others = [row for row in found.pairs.to_pylist() if row["measure"] == SCORE and row["setting_b"] != "id0"]
    equal = [row for row in others if row["setting_a"] == found.best]
    assert [row["distinguishable"] for row in equal] == [False, False]
    assert all(row["p_adjusted"] >= row["p"] for row in others)


def test_too_few_tracks_are_a_reason_and_no_verdict() -> None:
    found = compare(table(covers(5, 2, 3, noisy(lambda setting: 0.3 * setting))))
    pair = row_of(found.pairs, measure=SCORE)
    assert pair["difference"] > 0.1
    assert pair["distinguishable"] is pair["p"] is pair["p_adjusted"] is pair["low"] is None
    assert pair["reason"] == "5 tracks in common; 6 are needed for a verdict"
    assert "no verdict against it (5 tracks in common; 6 are needed for a verdict): s0.00" in " ".join(
        explain(found)
    )


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    points = {1: (0.9, 2.0), 2: (0.6, 10.0), 3: (0.5, 9.0), 4: (0.2, 40.0), 5: (0.2, 30.0)}
    rows = [cover(0, setting, 0, kept, **{DISTANCE: far}) for setting, (kept, far) in points.items()]
    rows.append(cover(0, 6, 0, None))
    found = compare(table(rows))
    assert found.front == ("id1", "id2", "id4")
    assert found.best == "id2"


def test_the_order_of_the_rows_plays_no_part() -> None:
    rows = covers(20, 3, 2, noisy(lambda setting: 0.05 * setting))
    one, other = (
        compare(table(rows)),
        compare(table([rows[k] for k in np.random.default_rng(1).permutation(len(rows))])),
    )
    assert (one.best, one.front) == (other.best, other.front)
    assert one.outcomes.equals(other.outcomes)
    for name in ("settings", "pairs"):
        for mine, theirs in zip(getattr(one, name).to_pylist(), getattr(other, name).to_pylist(), strict=True):
            assert mine == pytest.approx(theirs)


def test_of_many_settings_the_pairs_of_the_best_are_listed_and_all_are_accounted_for() -> None:
    kept = noisy(lambda setting: 0.0)
    found = compare(table(covers(8, 24, 1, kept)))
    listed = [row for row in found.pairs.to_pylist() if row["measure"] == SCORE]
    assert len(listed) == 23
    assert {row["setting_a"] for row in listed} == {found.best}
    assert not any(row["distinguishable"] for row in listed)  # though the best was picked from equals
    assert any(row["p"] < 0.05 for row in listed)


def test_no_covers_and_nothing_measured_are_no_error() -> None:
    empty = compare(table([]))
    assert (empty.best, empty.front, len(empty.settings), len(empty.outcomes), len(empty.pairs)) == (
        None,
        (),
        0,
        0,
        0,
    )
    assert explain(empty) == ["no cover has a score, so no setting is best"]
    bare = compare(table(covers(2, 2, 1, lambda *_: None)), Objective(moved="style/clap_text"))
    assert (bare.best, len(bare.outcomes)) == (None, 2)


def test_where_every_score_is_zero_none_is_best() -> None:
    lost = [row | {"cover/outcome": "lost"} for row in covers(8, 2, 1, noisy(lambda setting: 0.0))]
    found = compare(table(lost))
    assert found.best is None
    assert explain(found)[0] == "no setting kept the song and moved its sound, so no setting is best"


def test_where_every_cover_lost_the_song_none_is_called_best() -> None:
    lost = [row | {"cover/outcome": "lost"} for row in covers(8, 2, 1, noisy(lambda setting: 0.1 * setting))]
    said = explain(compare(table(lost)))
    assert "so no setting is best" in said[0]
    assert not any("best is" in line or "verdict" in line for line in said)


def test_a_setting_without_a_judged_cover_is_never_best() -> None:
    rows = covers(8, 2, 1, lambda track, setting, seed: 0.2 + 0.6 * setting)
    for row in rows:
        if row["setting_id"] == "id1":
            row["cover/outcome"] = None
    found = compare(table(rows))
    assert found.best == "id0"
    assert found.front == ("id0",)
    unknown = [row | {"cover/outcome": None} for row in rows]
    found = compare(table(unknown))
    assert (found.best, found.front) == (None, ())
    assert explain(found)[0] == "no cover could be judged, so no setting is best"
    told = Findings(table(unknown), found, ChanceLevel(0, {}, {}), (), {})
    console = Console(file=io.StringIO(), width=200)
    print_findings(console, told)
    assert console.file.getvalue().count("8 not judged") == 2  # type: ignore[attr-defined]
    values = setting_metrics(told, "id0")
    assert values["outcome/not_judged"] == 8
    assert "Objective" not in values


def test_a_comparison_is_told_in_sentences() -> None:
    rows = covers(12, 4, 2, noisy(lambda setting: (-0.3, 0.0, 0.005, 0.1)[setting]))
    for row in rows:
        if row["setting_id"] == "id0" and row["seed"] == 0:
            row["cover/outcome"] = "lost"
        if row["setting_id"] == "id1":
            row[DISTANCE] *= 2
    said = explain(compare(table(rows)))
    assert said[0].startswith("best is s0.10: score 0.5")
    assert said[0].endswith(" on 12 tracks")
    assert any(line.startswith("worse than it: s0.30 (-0.0") and ", s0.00 (-0." in line for line in said)
    assert "lost the song: s0.00 in 12 of 24 covers" in said
    assert said[-1].startswith("no setting beats these in both song kept and style moved: s0.30 (0.")


def test_sentences_name_settings_as_they_are_asked_to() -> None:
    found = compare(table(covers(12, 4, 2, noisy(lambda setting: (-0.3, 0.0, 0.005, 0.1)[setting]))))
    said = explain(found, called=lambda row: row["setting_name"].replace("s", "a, b "))
    assert said[0].startswith("best is a, b 0.")
    assert not any(" s0." in line for line in said)
    assert any("); a, b 0." in line for line in said)  # names that hold a comma are parted by semicolons


def test_the_best_is_told_from_others_by_score_alone() -> None:
    rows = covers(12, 2, 1, noisy(lambda setting: 0.2 * setting))
    for row in rows:
        if row["setting_id"] == "id0":
            row[DISTANCE] *= 1.2  # moved further, and yet of a lower score
    found = compare(table(rows))
    further, less = (row_of(found.pairs, measure=name)["difference"] for name in (DISTANCE, SCORE))
    assert further < 0 < less
    others = [line for line in explain(found)[1:] if not line.startswith("no setting beats")]
    assert others == [f"worse than it: s0.00 (-{less:.2f})"]


def test_the_setting_that_fails_most_is_named_first() -> None:
    rows = covers(6, 3, 1, lambda *_: 0.5)
    for row in rows:
        if row["track_id"] < f"t00{row['setting_id'][-1]}":
            row["status"] = "failed"
    said = explain(compare(table(rows)), max_sentences=1)
    assert "failed: s0.20 in 2 of 6 covers and 1 more" in said


def test_a_comparison_of_many_covers_is_quick() -> None:
    rng = np.random.default_rng(0)
    tracks, settings = 3000, 20
    n = tracks * settings
    track, setting = np.unravel_index(np.arange(n), (tracks, settings))
    columns: dict[str, Any] = {
        "track_id": pa.array(track).cast(pa.string()),
        "setting_id": pa.array(setting).cast(pa.string()),
        "setting_name": pa.array(setting).cast(pa.string()),
        "seed": pa.array(np.zeros(n, np.int64)),
        "status": pa.array(["ok"] * n),
        "cover/outcome": pa.array(["ok"] * n),
        "audio_cover_strength": setting / 20,
        "guidance_scale": np.full(n, 7.0),
        "t_switch": 1 - setting / 20,
        "cover_steps": setting,
    } | {measure.name: rng.random(n) for measure in MEASURES}
    started = time.process_time()  # other work on the machine is no part of it
    found: Comparison = compare(pa.table(columns))
    assert time.process_time() - started < 30  # about 5 s
    assert len(found.settings) == 20 * (3 + len(MEASURES))
