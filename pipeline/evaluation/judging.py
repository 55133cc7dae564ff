"""Covers judged against chance: the run's chance level, each cover's verdict and its score."""

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
from pipeline.metrics.chance_level import HARMONY, MELODY, TIMBRE, WAVEFORM, ChanceLevel, measure_chance, outcome
from pipeline.metrics.features import Features, extract
from pipeline.metrics.registry import MEASURES
from pipeline.results.queries import SUMMARY_COLUMNS
from pipeline.results.table import current_rows, newest_of_each
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
CHANCE_S = 60  # of each recording: more would be more work and memory, and the same level
READERS = 4


def any_measured(rows: pa.Table) -> bool:
    """Whether there is anything to compare."""
    return bool(pc.any(pc.is_valid(rows["unmeasured"])).as_py())


def measured_rows(output: Store, uri: str) -> pa.Table:
    """The covers of a folder that stand for themselves now, as rows of ``FINDINGS_COLUMNS``.

    Raises:
        RequestError: there are none, or none was measured.
    """
    rows = newest_of_each(current_rows(output, columns=FINDINGS_COLUMNS))
    if not len(rows):
        raise RequestError(f"output {uri} holds no results; name a folder of jobs.restyle or jobs.measure")
    if not any_measured(rows):
        raise RequestError(f"no cover in {uri} was measured; run python -m jobs.measure output={uri}")
    return rows


def judge(rows: pa.Table, chance: ChanceLevel, objective: Objective) -> pa.Table:
    """Rows with ``cover/outcome``, ``cover/reason`` and the columns of ``pipeline.evaluation.objective.score``."""
    names = ["status", "error_message", "duration_s", "unmeasured", HARMONY, MELODY, TIMBRE, WAVEFORM]
    found = [
        outcome(row, chance) if row["status"] == "ok" else ("failed", row["error_message"])
        for row in rows.select(names).to_pylist()
    ]
    for number, name in enumerate((OUTCOME, REASON)):
        rows = rows.append_column(name, pa.array([told[number] for told in found], pa.string()))
    scored = score(rows, objective)
    for name in scored.column_names:
        rows = rows.append_column(name, scored[name])
    return rows


def run_chance_level(output: Store, rows: pa.Table) -> ChanceLevel:
    """How much sources and covers of other tracks agree, on a sample of the run's own tracks.

    The sample is drawn by what tracks and items are called, so it is the same whoever asks.
    """
    with reader_pool(READERS, DEFAULT_READ_TIMEOUT) as (readers, timeout):
        features = partial(_features, output, timeout=timeout)
        heard = [both for both in readers.map(features, _sample(rows)) if both]
    return measure_chance(
        [(name, source) for name, source, _ in heard], [(name, cover) for name, _, cover in heard]
    )


def _sample(rows: pa.Table) -> list[dict[str, Any]]:
    """One cover of each of ``CHANCE_TRACKS`` tracks."""
    ok = rows.filter(pc.equal(rows["status"], "ok")).select(["track_id", "item_id", "source", "audio_path"])
    tracks = hash_sample(ok["track_id"].to_pylist(), CHANCE_TRACKS)
    covers: dict[str, dict[str, dict[str, Any]]] = {track_id: {} for track_id in tracks}
    for row in ok.filter(pc.is_in(ok["track_id"], value_set=pa.array(tracks, pa.string()))).to_pylist():
        covers[row["track_id"]][row["item_id"]] = row
    return [own[hash_sample(own, 1)[0]] for own in covers.values()]


def _features(output: Store, row: dict[str, Any], timeout: ReadTimeout) -> tuple[str, Features, Features] | None:
    """A track's id, and what is compared of its source and its cover; None where one of them is gone."""
    try:
        waves = load(row["source"], None, timeout), load_cover(output, row["audio_path"], None, timeout)
    except (RestyleError, OSError) as error:
        log.warning("%s is left out of the run's chance level: %s", row["track_id"], error)
        return None
    source, cover = (extract([wave[:, : CHANCE_S * SAMPLE_RATE]])[0] for wave in waves)
    return row["track_id"], source, cover
