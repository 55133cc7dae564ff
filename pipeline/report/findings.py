"""What the covers of a folder come to: each judged against chance, settings compared, samples to listen to.

It depends on result rows and audio files alone, so it is the same at the end of a job and long after it.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from acestep.constants import SAMPLE_RATE
from acestep.errors import RequestError, RestyleError
from acestep.sampling.setting import SETTING_FIELDS
from pipeline.catalogue.own_columns import META, with_columns_of
from pipeline.evaluation.comparison import Comparison, compare, explain
from pipeline.evaluation.objective import KEPT, MOVED, OUTCOME, REASON, SCORE, Objective, score
from pipeline.evaluation.sampling import drawn
from pipeline.metrics.chance_level import HARMONY, LEAST_PAIRS, MELODY, TIMBRE, WAVEFORM, Null, null_of, outcome
from pipeline.metrics.features import Features, extract
from pipeline.metrics.registry import BY_NAME, MEASURES
from pipeline.report.figures import pictures
from pipeline.report.listening_page import listening_page
from pipeline.report.page_grid import axes, setting_words
from pipeline.report.track_picks import choose
from pipeline.results.table import current_rows, newest_of_each
from pipeline.storage.audio_files import load, load_cover
from pipeline.storage.parquet_parts import encode_parquet
from pipeline.storage.read_timeout import DEFAULT_PATIENCE, Patience, side_by_side
from pipeline.storage.store import Store
from pipeline.workflows.summary import SUMMARY_COLUMNS

log = logging.getLogger(__name__)
FOLDER, PAGE = "comparison", "listen.html"
FOUND_COLUMNS = (
    *SUMMARY_COLUMNS,
    *("seed", "stage", "cover_steps", "t_switch", "source_duration_s", "unmeasured", META),
    *SETTING_FIELDS,
    *(measure.name for measure in MEASURES),
)
COVER_COLUMNS = ("item_id", "track_id", "setting_id", "setting_name", "seed", "status", OUTCOME, REASON)
NULL_TRACKS = 24  # 552 pairs of a source and another track's cover
HEADLINES = 2  # sentences above the players: what is best, and what may be as good
NULL_S = 60  # of each recording: more would be more work and memory, and the same level
READERS = 4


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
            raise RequestError(f"listen_tracks {self.listen_tracks} may not be below 0; 0 makes no page")


@dataclass(frozen=True)
class Findings:
    """What was found.

    rows: the covers, each with its outcome and its score.
    files: contents by their names in the folder ``comparison``: tables, pictures, the listening page.
    """

    rows: pa.Table
    comparison: Comparison
    null: Null
    sentences: tuple[str, ...]
    files: Mapping[str, bytes]


def find(output: Store, rows: pa.Table, spec: FindingsSpec, title: str) -> Findings:
    """Judge and compare covers, and write it to ``comparison`` of the output folder.

    Args:
        rows: of ``FOUND_COLUMNS``, of which some are measured.
    """
    rows = rows.filter(pc.not_equal(rows["status"], "rejected"))
    null = chance(output, rows)
    rows = judged(rows, null, spec.objective)
    comparison = compare(rows, spec.objective)
    sentences = (*explain(comparison), *_caveats(rows, null))
    files = _tables(rows, comparison, null, spec.objective)
    if spec.pictures:
        files |= pictures(rows, comparison)
    if spec.listen_tracks:
        samples = choose(rows, spec.listen_tracks)
        files[PAGE] = listening_page(
            title,
            rows,
            samples,
            lambda row: load(row["source"]),
            lambda row: load_cover(output, row["audio_path"]),
            explain(comparison, called=partial(setting_words, grid=axes(comparison.outcomes)))[:HEADLINES],
        )
    for name, content in files.items():
        output.write(f"{FOLDER}/{name}", content)
    return Findings(rows, comparison, null, sentences, files)


def any_measured(rows: pa.Table) -> bool:
    """Whether there is anything to compare."""
    return bool(pc.any(pc.is_valid(rows["unmeasured"])).as_py())


def _caveats(rows: pa.Table, null: Null) -> list[str]:
    """What the figures do not rest on, in sentences."""
    said = []
    ok = rows.filter(pc.equal(rows["status"], "ok"))
    unknown = ok.filter(pc.is_null(ok[OUTCOME]))
    if len(unknown):
        reason = unknown[REASON][0].as_py()
        said.append(f"{len(unknown)} of {len(ok)} covers are not judged, the first since {reason}")
    if null.pairs < LEAST_PAIRS:
        said.append(
            f"chance is a usual one: the run has {null.pairs} pairs of unrelated tracks, {LEAST_PAIRS} are needed"
        )
    return said


def measured_rows(output: Store, uri: str) -> pa.Table:
    """The covers of a folder that stand for themselves now, as rows of ``FOUND_COLUMNS``.

    Raises:
        RequestError: there are none, or none was measured.
    """
    rows = newest_of_each(current_rows(output, columns=FOUND_COLUMNS))
    if not len(rows):
        raise RequestError(f"output {uri} holds no results; name a folder of jobs.restyle or jobs.measure")
    if not any_measured(rows):
        raise RequestError(f"no cover in {uri} was measured; run python -m jobs.measure output={uri}")
    return rows


def judged(rows: pa.Table, null: Null, objective: Objective) -> pa.Table:
    """Rows with ``cover/outcome``, ``cover/reason`` and the columns of ``pipeline.evaluation.objective.score``."""
    names = ["status", "error_message", "duration_s", "unmeasured", HARMONY, MELODY, TIMBRE, WAVEFORM]
    found = [
        outcome(row, null) if row["status"] == "ok" else ("failed", row["error_message"])
        for row in rows.select(names).to_pylist()
    ]
    for number, name in enumerate((OUTCOME, REASON)):
        rows = rows.append_column(name, pa.array([told[number] for told in found], pa.string()))
    scored = score(rows, objective)
    for name in scored.column_names:
        rows = rows.append_column(name, scored[name])
    return rows


def chance(output: Store, rows: pa.Table) -> Null:
    """How much sources and covers of other tracks agree, on a sample of the run's own tracks.

    The sample is drawn by what tracks and items are called, so it is the same whoever asks.
    """
    with side_by_side(READERS, DEFAULT_PATIENCE) as (readers, patience):
        features = partial(_features, output, patience=patience)
        heard = [both for both in readers.map(features, _sample(rows)) if both]
    return null_of([(name, source) for name, source, _ in heard], [(name, cover) for name, _, cover in heard])


def _sample(rows: pa.Table) -> list[dict[str, Any]]:
    """One cover of each of ``NULL_TRACKS`` tracks."""
    ok = rows.filter(pc.equal(rows["status"], "ok")).select(["track_id", "item_id", "source", "audio_path"])
    tracks = drawn(ok["track_id"].to_pylist(), NULL_TRACKS)
    covers: dict[str, dict[str, dict[str, Any]]] = {track_id: {} for track_id in tracks}
    for row in ok.filter(pc.is_in(ok["track_id"], value_set=pa.array(tracks, pa.string()))).to_pylist():
        covers[row["track_id"]][row["item_id"]] = row
    return [own[drawn(own, 1)[0]] for own in covers.values()]


def _features(output: Store, row: dict[str, Any], patience: Patience) -> tuple[str, Features, Features] | None:
    """A track's id, and what is compared of its source and its cover; None where one of them is gone."""
    try:
        waves = load(row["source"], None, patience), load_cover(output, row["audio_path"], None, patience)
    except (RestyleError, OSError) as error:
        log.warning("%s is left out of the run's chance level: %s", row["track_id"], error)
        return None
    source, cover = (extract([wave[:, : NULL_S * SAMPLE_RATE]])[0] for wave in waves)
    return row["track_id"], source, cover


def _tables(rows: pa.Table, comparison: Comparison, null: Null, objective: Objective) -> dict[str, bytes]:
    measured = [name for name in BY_NAME if rows[name].null_count < len(rows)]
    covers = rows.select([*COVER_COLUMNS, KEPT, MOVED, SCORE, *measured, "unmeasured"])
    tables = {
        "covers": with_columns_of(covers, rows[META]),
        "settings": comparison.settings,
        "outcomes": comparison.outcomes,
        "pairs": comparison.pairs,
    }
    files = {f"{name}.parquet": encode_parquet(table) for name, table in tables.items()}
    told = {"null": asdict(null), "objective": asdict(objective)}
    return files | {f"{name}.json": json.dumps(values, indent=2).encode() for name, values in told.items()}
