"""Comparison of settings over the tracks of a job: scores, Pareto front, and pairwise tests.

Every track has the same weight, however many of its seeds succeeded; seeds are repeats within a track, not
independent evidence. Two settings are compared on the covers that both have, track by track and seed by seed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluation.comparison_tables import (
    PAIRS,
    SETTINGS,
    as_table,
    compare_pairs,
    describe,
    layout_of,
    outcomes_of,
)
from pipeline.evaluation.objective import KEPT, MOVED, SCORE, Objective, numbers, score
from pipeline.evaluation.statistics import Floats, mean_over, mean_within
from pipeline.metrics.registry import MEASURES


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    settings: a row for each setting and measure: setting_id, setting_name, measure, mean over the tracks, sd and n
        of the covers, tracks, and the 95 % interval low..high of the mean, null under six tracks. A measure that
        no cover has is left out.
    outcomes: a row for each setting: setting_id, setting_name, covers, failed (or rejected), ok, copy, lost,
        strength, guidance and the other varied parameters, t_switch, cover_steps. A cover that was not judged
        counts in covers alone.
    pairs: a row for each pair and measure: setting_a, setting_b (ids), measure, difference a - b of the means over
        the tracks in common, its 95 % interval low..high, p, p_adjusted for all pairs of settings, tracks,
        distinguishable (p_adjusted under 0.05; null without a verdict) and reason (why there is none). The best
        setting is setting_a of its pairs; the pairs of the others are listed up to 20 settings.
    front: ids of the settings on the Pareto front of kept and moved.
    best: id of the setting with the highest mean score; None where none is above 0. Settings without a judged
        cover, or with scores of less than half as many tracks as the one with the most, are in neither.
    """

    settings: pa.Table
    outcomes: pa.Table
    pairs: pa.Table
    front: tuple[str, ...]
    best: str | None


def compare(rows: pa.Table, objective: Objective | None = None) -> Comparison:
    """Compare the settings of result rows, one row for each cover; the order of the rows does not matter.

    Args:
        rows: columns as in ``pipeline.results.columns``, and ``cover/outcome``. Rows without a track or a setting
            are ignored.
    """
    rows = rows.filter(pc.and_(pc.is_valid(rows["track_id"]), pc.is_valid(rows["setting_id"])))
    scores = score(rows, objective or Objective())
    outcomes = outcomes_of(rows)
    ids = outcomes["setting_id"].to_pylist()
    layout = layout_of(rows, ids)
    by_track = layout.by_track(numbers(scores, SCORE))
    # A setting that has scores of few tracks may have those of the easy ones.
    judged = np.array([is_judged(row) for row in outcomes.to_pylist()], bool)
    tracks = np.where(judged, (~np.isnan(by_track)).sum(0), 0)
    known = judged & (2 * tracks >= tracks.max(initial=0))
    best = _highest(np.where(known, by_track, np.nan))
    settings, pairs, means = [SETTINGS.empty_table()], [PAIRS.empty_table()], {}
    for name in (SCORE, KEPT, MOVED, *(measure.name for measure in MEASURES)):
        values = numbers(scores if name in scores.column_names else rows, name)
        if np.isnan(values).all():
            continue
        cells = layout.cells(values)
        described = describe(values, layout.setting, mean_within(cells, layout.starts))
        means[name] = np.where(known, described["mean"], np.nan)
        labels = {"setting_id": ids, "setting_name": outcomes["setting_name"], "measure": [name] * len(ids)}
        settings.append(as_table(labels | described, SETTINGS))
        pairs.append(compare_pairs(ids, name, layout, cells, best))
    return Comparison(
        settings=pa.concat_tables(settings),
        outcomes=outcomes,
        pairs=pa.concat_tables(pairs),
        front=tuple(ids[k] for k in _front(means[KEPT], means[MOVED])) if means.keys() >= {KEPT, MOVED} else (),
        best=None if best is None else ids[best],
    )


def is_judged(row: Mapping[str, Any]) -> bool:
    """Whether a setting has a judged cover; ``row`` is of ``outcomes``."""
    return bool(row["ok"] + row["copy"] + row["lost"])


def not_judged(row: Mapping[str, Any]) -> int:
    """How many finished covers of a setting have no verdict; ``row`` is of ``outcomes``."""
    return int(row["covers"] - row["failed"] - row["ok"] - row["copy"] - row["lost"])


def explain(
    comparison: Comparison,
    max_sentences: int = 5,
    called: Callable[[Mapping[str, Any]], str] = itemgetter("setting_name"),
) -> list[str]:
    """Summarize a comparison in sentences: the best setting, its equals, failures, and the Pareto front.

    Args:
        max_sentences: settings named in one sentence.
        called: the name of a setting, from its row in ``outcomes``.
    """
    outcomes = comparison.outcomes.to_pylist()
    names = {row["setting_id"]: called(row) for row in outcomes}
    means = {(row["setting_id"], row["measure"]): row["mean"] for row in comparison.settings.to_pylist()}
    sentences = _best_and_others(comparison, names, max_sentences)
    for outcome, did in (("lost", "lost the song"), ("copy", "copied the source"), ("failed", "failed")):
        concerned = [row for row in outcomes if row[outcome]]
        concerned.sort(key=lambda row: -row[outcome] / row["covers"])
        listed = [f"{names[row['setting_id']]} in {row[outcome]} of {row['covers']} covers" for row in concerned]
        sentences += [f"{did}: {_listed(listed, max_sentences)}"] * bool(listed)
    if len(comparison.front) > 1:
        shown = [f"{names[k]} ({means[k, KEPT]:.2f}, {means[k, MOVED]:.2f})" for k in comparison.front]
        beaten_by_none = "no setting beats these in both song kept and style moved"
        sentences.append(f"{beaten_by_none}: {_listed(shown, max_sentences)}")
    return sentences


def _best_and_others(comparison: Comparison, names: Mapping[str, str], max_sentences: int) -> list[str]:
    if comparison.best is None:
        scored = pc.any(pc.equal(comparison.settings["measure"], SCORE)).as_py()
        reason = "no setting kept the song and moved its sound" if scored else "no cover has a score"
        outcomes = comparison.outcomes.to_pylist()
        if any(map(not_judged, outcomes)) and not any(map(is_judged, outcomes)):
            reason = "no cover could be judged"
        return [f"{reason}, so no setting is best"]
    scores = comparison.settings.filter(pc.equal(comparison.settings["measure"], SCORE)).to_pylist()
    best = next(row for row in scores if row["setting_id"] == comparison.best)
    if not any(row["ok"] for row in comparison.outcomes.to_pylist()):
        highest = f"the highest score is {best['mean']:.2f}, of {names[best['setting_id']]}"
        return [f"no cover kept the song and moved its sound, so no setting is best ({highest})"]
    sure = "no interval" if best["low"] is None else f"{best['low']:.2f}..{best['high']:.2f}"
    on = f"{best['tracks']} track{'s' * (best['tracks'] != 1)}"
    sentences = [f"best is {names[best['setting_id']]}: score {best['mean']:.2f} ({sure}) on {on}"]
    pairs = comparison.pairs.filter(pc.equal(comparison.pairs["measure"], SCORE)).to_pylist()
    against: dict[str, list[str]] = {}
    for pair in sorted(pairs, key=lambda pair: pair["difference"] or 0.0):
        if pair["setting_a"] == comparison.best:
            less = "" if pair["difference"] is None else f" ({-pair['difference']:+.2f})"
            against.setdefault(_verdict(pair), []).append(names[pair["setting_b"]] + less)
    return sentences + [
        f"{verdict}: {_listed(those, max_sentences)}" for verdict, those in sorted(against.items())
    ]


def _verdict(pair: Mapping[str, Any]) -> str:
    if pair["distinguishable"] is None:
        return f"no verdict against it ({pair['reason']})"
    if not pair["distinguishable"]:
        return "cannot be told apart from it"
    # The best mean is over all tracks, the difference over the tracks in common.
    return "worse than it" if pair["difference"] > 0 else "better on the tracks in common"


def _listed(names: Sequence[str], max_sentences: int) -> str:
    more = len(names) - max_sentences
    between = "; " if any(", " in name for name in names) else ", "
    return between.join(names[:max_sentences]) + (f" and {more} more" if more > 0 else "")


def _highest(by_track: Floats) -> int | None:
    """The setting with the highest mean over tracks, the first of equal ones; None where none is above 0."""
    means = mean_over(by_track)
    return int(np.nanargmax(means)) if (means > 0).any() else None


def _front(kept: Floats, moved: Floats) -> list[int]:
    """Settings on the Pareto front, by ``kept`` descending."""
    order = [int(k) for k in np.lexsort((-moved, -kept)) if not np.isnan(kept[k] + moved[k])]
    front: list[int] = []
    for k in order:
        if not front or moved[k] > moved[front[-1]] or (kept[k], moved[k]) == (kept[front[-1]], moved[front[-1]]):
            front.append(k)
    return front
