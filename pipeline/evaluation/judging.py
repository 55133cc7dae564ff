"""Judges covers: the run's chance level, each cover's verdict and its score."""

import logging
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from acestep.constants import SAMPLE_RATE
from acestep.errors import RequestError, RestyleError
from acestep.sampling.setting import SETTING_FIELDS
from pipeline.catalogue.own_columns import META
from pipeline.evaluation.objective import OUTCOME, REASON, Objective, score
from pipeline.evaluation.sampling import hash_sample
from pipeline.metrics.chance_level import ChanceLevel, measure_chance
from pipeline.metrics.features import Features, extract
from pipeline.metrics.registry import MEASURES
from pipeline.metrics.verdict import HARMONY, MELODY, TIMBRE, WAVEFORM, verdict
from pipeline.results.queries import SUMMARY_COLUMNS
from pipeline.results.reader import current_rows, newest_of_each
from pipeline.storage.audio_files import load, load_cover
from pipeline.storage.read_timeout import DEFAULT_READ_TIMEOUT, ReadTimeout, reader_pool
from pipeline.storage.store import Store

log = logging.getLogger(__name__)
FINDINGS_COLUMNS = (
    *SUMMARY_COLUMNS,
    *("seed", "stage", "cover_steps", "t_switch", "source_duration_s", "unmeasured", META),
    *SETTING_FIELDS,
    *(measure.name for measure in MEASURES),
)
CHANCE_TRACKS = 24  # 552 pairs of a source and another track's cover
CHANCE_S = 60  # of each recording; longer ones cost work and memory and give the same level
READERS = 4


def any_measured(rows: pa.Table) -> bool:
    """Whether any row was measured."""
    return bool(pc.any(pc.is_valid(rows["unmeasured"])).as_py())


def measured_rows(output: Store, uri: str) -> pa.Table:
    """The current covers of a folder as rows of ``FINDINGS_COLUMNS``, without outdated ones.

    Raises:
        RequestError: the folder has no results, or none was measured.
    """
    rows = newest_of_each(current_rows(output, columns=FINDINGS_COLUMNS))
    if not len(rows):
        remedy = "name a folder of jobs.restyle or jobs.measure"
        raise RequestError("missing_folder", "holds no results", remedy, "output", uri)
    if not any_measured(rows):
        remedy = f"run python -m jobs.measure output={uri}"
        raise RequestError("invalid_value", f"no cover in {uri} was measured", remedy)
    return rows


def judge(rows: pa.Table, chance: ChanceLevel, objective: Objective) -> pa.Table:
    """Rows with ``cover/outcome``, ``cover/reason`` and the columns of ``pipeline.evaluation.objective.score``."""
    names = ["status", "error_message", "duration_s", "unmeasured", HARMONY, MELODY, TIMBRE, WAVEFORM]
    outcomes = [
        verdict(row, chance) if row["status"] == "ok" else ("failed", row["error_message"])
        for row in rows.select(names).to_pylist()
    ]
    for number, name in enumerate((OUTCOME, REASON)):
        rows = rows.append_column(name, pa.array([found[number] for found in outcomes], pa.string()))
    scored = score(rows, objective)
    for name in scored.column_names:
        rows = rows.append_column(name, scored[name])
    return rows


def run_chance_level(output: Store, rows: pa.Table) -> ChanceLevel:
    """The chance level of a run: agreement of sources with covers of other tracks, on a sample of its tracks.

    The sample depends only on the ids of tracks and items.
    """
    with reader_pool(READERS, DEFAULT_READ_TIMEOUT) as (readers, timeout):
        features = partial(_features, output, timeout=timeout)
        sampled = [found for found in readers.map(features, _sample(rows)) if found]
    sources = [(track_id, source) for track_id, source, _ in sampled]
    return measure_chance(sources, [(track_id, cover) for track_id, _, cover in sampled])


def _sample(rows: pa.Table) -> list[dict[str, Any]]:
    """One cover of each of ``CHANCE_TRACKS`` tracks."""
    ok = rows.filter(pc.equal(rows["status"], "ok")).select(["track_id", "item_id", "source", "audio_path"])
    tracks = hash_sample(ok["track_id"].to_pylist(), CHANCE_TRACKS)
    covers: dict[str, dict[str, dict[str, Any]]] = {track_id: {} for track_id in tracks}
    for row in ok.filter(pc.is_in(ok["track_id"], value_set=pa.array(tracks, pa.string()))).to_pylist():
        covers[row["track_id"]][row["item_id"]] = row
    return [own[hash_sample(own, 1)[0]] for own in covers.values()]


def _features(output: Store, row: dict[str, Any], timeout: ReadTimeout) -> tuple[str, Features, Features] | None:
    """A track's id, and features of its source and its cover; None where a file is missing or unreadable."""
    try:
        waves = load(row["source"], None, timeout), load_cover(output, row["audio_path"], None, timeout)
    except (RestyleError, OSError) as error:
        log.warning("%s is left out of the run's chance level: %s", row["track_id"], error)
        return None
    source, cover = (extract([wave[:, : CHANCE_S * SAMPLE_RATE]])[0] for wave in waves)
    return row["track_id"], source, cover
