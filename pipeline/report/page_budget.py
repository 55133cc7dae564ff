"""Selects the covers that fit on the listening page within its size limit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline.report import audio_clips as previews
from pipeline.report.page_grid import Row, by_score, median_seeds
from pipeline.report.track_picks import TrackPick

AUDIO_BYTES = 9_000_000
BYTES_PER_SECOND = previews.KBPS * 1000 / 8 * 1.05 * 4 / 3  # 5 % of container, and base64
SHORTEST_S = 6.0


@dataclass(frozen=True)
class PageSelection:
    """Rows by sample, the length of an excerpt in s, and notes on what is left out."""

    covers: Mapping[TrackPick, Sequence[Row]]
    seconds: float = previews.SECONDS
    notes: tuple[str, ...] = ()


def fit_page(rows: pa.Table, samples: Sequence[TrackPick]) -> PageSelection:
    """Select what a page can hold of the sampled tracks.

    All of it at 12 s; else the following reductions, in order, until it fits: one seed of each setting, the median
    by score; shorter excerpts, down to 6 s; fewer tracks; of the last track, the best-scoring covers.
    """
    covers: dict[TrackPick, list[Row]] = {sample: [] for sample in samples}
    by_id = {sample.track_id: covers[sample] for sample in samples}
    for row in rows.to_pylist():
        by_id[row["track_id"]].append(row)
    shown = PageSelection(covers)
    if not _fits(shown):
        shown = _one_seed_each(shown)
    while not _fits(replace(shown, seconds=SHORTEST_S)) and len(shown.covers) > 1:
        shown = _without_last(shown)
    if not _fits(replace(shown, seconds=SHORTEST_S)):
        shown = _best_only(shown)
    longest_s = AUDIO_BYTES / (_previews(shown) * BYTES_PER_SECOND)
    return replace(shown, seconds=min(previews.SECONDS, int(10 * longest_s) / 10))


def _previews(shown: PageSelection) -> int:
    """The number of previews: one of each source, and one of each finished cover."""
    made = (sum(row["status"] == "ok" for row in covers) for covers in shown.covers.values())
    return max(1, len(shown.covers) + sum(made))


def _fits(shown: PageSelection) -> bool:
    return _previews(shown) * shown.seconds * BYTES_PER_SECOND <= AUDIO_BYTES


def _one_seed_each(shown: PageSelection) -> PageSelection:
    medians = {sample: median_seeds(covers) for sample, covers in shown.covers.items()}
    if _previews(replace(shown, covers=medians)) == _previews(shown):
        return shown
    note = "Each cell holds one of several seeds, the one with the median score, so that the page stays small."
    return replace(shown, covers=medians, notes=(*shown.notes, note))


def _without_last(shown: PageSelection) -> PageSelection:
    *kept, last = shown.covers
    note = f"Track {last.track_id} is left out, so that the page stays small."
    return replace(shown, covers={sample: shown.covers[sample] for sample in kept}, notes=(*shown.notes, note))


def _best_only(shown: PageSelection) -> PageSelection:
    max_covers = int(AUDIO_BYTES / BYTES_PER_SECOND / SHORTEST_S) - 1
    note = f"Only the {max_covers} best-scoring covers are here, so that the page stays small."
    best = {sample: by_score(covers)[:max_covers] for sample, covers in shown.covers.items()}
    return replace(shown, covers=best, notes=(*shown.notes, note))
