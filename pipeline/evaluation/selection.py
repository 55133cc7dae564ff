"""Selection of the best cover of each track, over seeds and settings."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluation.objective import OUTCOME, SCORE, WORTHLESS, Objective, score

NONE_OK = "no cover came out"
ALL_WORTHLESS = "every cover lost the song or copied it"
NONE_MEASURED = "no cover that kept the song could be measured"
SCHEMA = pa.schema(
    [
        ("track_id", pa.string()),
        ("item_id", pa.string()),
        ("setting_name", pa.string()),
        ("seed", pa.int64()),
        (SCORE, pa.float64()),
        ("margin", pa.float64()),
        ("candidates", pa.int64()),
        ("reason", pa.string()),
    ]
)


def select(rows: pa.Table, objective: Objective | None = None) -> pa.Table:
    """One row of ``SCHEMA`` for each track, ordered by track_id.

    A candidate is a cover that has a score and neither lost the song nor copied it. The highest score wins, ties
    are broken by setting_name and seed; ``margin`` is the lead over the next candidate, null without one. A track
    without a candidate has no item_id, and ``reason`` says why; elsewhere it is empty.
    """
    ok = pc.equal(rows["status"], "ok")
    sound = pc.and_(ok, pc.invert(pc.is_in(rows[OUTCOME], value_set=pa.array(WORTHLESS))))
    scores = score(rows, objective or Objective())[SCORE]
    scored = rows.select(["track_id", "item_id", "setting_name", "seed"]).append_column(SCORE, scores)
    chosen = _chosen(scored.filter(pc.and_(sound, pc.is_valid(scores))))
    flags = {"ok": pc.cast(ok, pa.int64()), "sound": pc.cast(sound, pa.int64())}
    counts = pa.table({"track_id": rows["track_id"]} | flags).filter(pc.is_valid(rows["track_id"]))
    tracks = counts.group_by("track_id").aggregate([(name, "sum") for name in flags])
    lacking = tracks.filter(pc.invert(pc.is_in(tracks["track_id"], value_set=chosen["track_id"])))
    reason = pc.if_else(pc.equal(lacking["sound_sum"], 0), ALL_WORTHLESS, NONE_MEASURED)
    without = {
        "track_id": lacking["track_id"],
        "candidates": pa.array(np.zeros(len(lacking), np.int64)),
        "reason": pc.if_else(pc.equal(lacking["ok_sum"], 0), NONE_OK, reason),
    }
    nothing = {field.name: pa.nulls(len(lacking), field.type) for field in SCHEMA}
    return pa.concat_tables([chosen, pa.table(nothing | without, schema=SCHEMA)]).sort_by("track_id")


def _chosen(candidates: pa.Table) -> pa.Table:
    """The best candidate of each track that has one."""
    ties = [("setting_name", "ascending"), ("seed", "ascending")]
    ranked = candidates.sort_by([("track_id", "ascending"), (SCORE, "descending"), *ties])
    tracks = ranked["track_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.unique(tracks, return_index=True)[1]
    scores = ranked[SCORE].to_numpy()
    count = np.diff(first, append=len(ranked))
    second = np.minimum(first + 1, len(ranked) - 1)
    found = {name: ranked[name].take(pa.array(first)) for name in candidates.column_names}
    found |= {
        "margin": pa.array(scores[first] - scores[second], mask=count < 2),
        "candidates": pa.array(count),
        "reason": pa.array([""] * len(first), pa.string()),
    }
    return pa.table(found, schema=SCHEMA)
