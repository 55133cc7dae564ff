"""The listening page: sources and their covers side by side, in one self-contained HTML file."""

import base64
import html
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from acestep.errors import RequestError, RestyleError
from pipeline.evaluation.objective import OUTCOME, REASON
from pipeline.metrics.registry import Measure
from pipeline.report import audio_clips as previews
from pipeline.report import labels
from pipeline.report.page_budget import fit_page
from pipeline.report.page_grid import (
    Axes,
    Row,
    axes,
    by_score,
    label,
    only_covers,
    place,
    setting_words,
    values_along,
)
from pipeline.report.track_picks import TrackPick

READERS = 4
SCRIPTS = ("elements.js", "sound.js", "grid.js", "page.js")

Read = Callable[[dict[str, Any]], Tensor]


@dataclass(frozen=True)
class Excerpt:
    """Start and length, in s, of the excerpts of a track's source and covers."""

    start_s: float
    seconds: float


def listening_page(
    title: str,
    rows: pa.Table,
    samples: Sequence[TrackPick],
    read_source: Read,
    read_cover: Read,
    notes: Sequence[str] = (),
) -> bytes:
    """One HTML file under 10 MB, with audio, for a browser or the artifact viewer of MLflow.

    Args:
        rows: results of at least the sampled tracks, with their outcomes and objectives.
        read_source, read_cover: the audio ``[2, n]`` at 48 kHz of a row's source and of its cover; called from
            several threads. Their ``RestyleError`` or ``OSError`` is shown in place of the player.
        notes: sentences for the head of the page.

    Raises:
        RequestError: a sampled track has no rows.
    """
    rows = only_covers(rows)
    missing = sorted({sample.track_id for sample in samples} - set(rows["track_id"].to_pylist()))
    if missing:
        remedy = "choose samples among the tracks of the results"
        raise RequestError("invalid_value", f"track {missing[0]!r} has no covers, made or failed", remedy)
    ids = pa.array([sample.track_id for sample in samples], pa.string())
    rows = rows.filter(pc.is_in(rows["track_id"], value_set=ids))
    grid, shown = axes(rows), fit_page(rows, samples)
    measures = [measure for measure in labels.SHOWN if measure.name in rows.column_names]
    content = {
        "title": title,
        "notes": [*notes, *shown.notes],
        "preview": {"seconds": shown.seconds, "lufs": previews.LOUDNESS_LUFS, "kbps": previews.KBPS},
        "measures": [_measure(measure) for measure in measures],
        "outcomes": labels.OUTCOMES,
        "tracks": [
            _track(sample, by_score(covers), grid, shown.seconds, read_source, read_cover)
            for sample, covers in shown.covers.items()
        ],
    }
    return _filled(title, content)


def _measure(measure: Measure) -> dict[str, Any]:
    return {
        "name": measure.name,
        "label": measure.label or measure.name,
        "key": bool(measure.label),
        "unit": measure.unit,
        "better": measure.better,
        "meaning": measure.meaning,
        "scale": measure.scale,
    }


def _track(
    sample: TrackPick, covers: Sequence[Row], grid: Axes, seconds: float, read_source: Read, read_cover: Read
) -> dict[str, Any]:
    lengths_s = [row["duration_s"] for row in covers if row["duration_s"] is not None]
    # A cover is as long as its source, or less than a fade shorter.
    seconds = min([seconds, *lengths_s])
    excerpt = Excerpt(previews.excerpt_start(min(lengths_s, default=0.0), seconds), seconds)
    across, down = values_along(covers, grid.across), values_along(covers, grid.down)
    with ThreadPoolExecutor(READERS) as readers:
        source = readers.submit(_clip, read_source, covers[0], excerpt)
        clips = readers.map(lambda row: _cover_clip(read_cover, row, excerpt), covers)
    return {
        "id": sample.track_id,
        "rule": sample.rule,
        "caption": covers[0]["caption"] or "",
        "source": source.result(),
        "across": _headings(grid.across, across),
        "down": _headings(grid.down, down),
        "covers": [
            {
                "column": place(row, grid.across, across),
                "row": place(row, grid.down, down),
                "label": label(row, grid.others),
                **_cover_facts(row, grid),
                **clip,
            }
            for row, clip in zip(covers, clips, strict=True)
        ],
    }


def _headings(axis: str | None, along: Sequence[Any]) -> list[str]:
    """Row or column headings of the grid; "" without an axis."""
    return [labels.format_value(axis, entry) if axis else "" for entry in along]


def _cover_facts(row: Row, grid: Axes) -> dict[str, Any]:
    return {
        "setting": setting_words(row, grid),
        "name": row["setting_name"],
        "seed": label(row, ()),
        "caption": row["caption"] or "",
        "outcome": (row[OUTCOME] or labels.NOT_JUDGED) if row["status"] == "ok" else "failed",
        "reason": row.get(REASON) or "",
        "unmeasured": row.get("unmeasured") or [],
        "measures": {measure.name: _finite(row.get(measure.name)) for measure in labels.SHOWN},
    }


def _cover_clip(read: Read, row: Row, excerpt: Excerpt) -> dict[str, Any]:
    if row["status"] == "ok":
        return _clip(read, row, excerpt)
    return {"problem": ": ".join(filter(None, (row["error_kind"], row["error_message"]))) or row["status"]}


def _clip(read: Read, row: Row, excerpt: Excerpt) -> dict[str, Any]:
    """``audio`` (a data URI) and ``peaks``, or ``problem``: the reason of their absence."""
    try:
        wave = read(dict(row))
        content = previews.preview(wave, excerpt.start_s, excerpt.seconds)
    except (RestyleError, OSError) as error:
        return {"problem": str(error)}
    return {
        "audio": "data:audio/ogg;codecs=opus;base64," + base64.b64encode(content).decode(),
        "peaks": previews.peaks(wave, excerpt.start_s, excerpt.seconds),
        "seconds": round(excerpt.seconds, 2),
    }


def _finite(number: Any) -> Any:
    """A float rounded to the displayed digits; None if it is not finite, which JSON cannot hold."""
    if not isinstance(number, float):
        return number
    return float(f"{number:.4g}") if math.isfinite(number) else None


def _filled(title: str, content: dict[str, Any]) -> bytes:
    """The template with its style, script and data.

    Escaping ``<`` keeps the data from ending its element; the script inserts text as text nodes.
    """
    folder = files(__package__) / "listen"
    read = {name: (folder / name).read_text("utf-8") for name in ("page.html", "style.css", *SCRIPTS)}
    data = json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    script = "\n".join(read[name] for name in SCRIPTS)
    parts = {"title": html.escape(title), "style": read["style.css"], "script": script, "data": data}
    return Template(read["page.html"]).substitute(parts).encode()
