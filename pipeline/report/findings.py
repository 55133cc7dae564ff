"""Findings of a folder: covers judged against chance, settings compared, figures and the listening page.

They depend on result rows and audio files only, so they can be made again at any time.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalogue.own_columns import META, with_columns_of
from pipeline.evaluation.comparison import Comparison, compare, explain
from pipeline.evaluation.judging import judge, run_chance_level
from pipeline.evaluation.objective import KEPT, MOVED, OUTCOME, REASON, SCORE, Objective
from pipeline.metrics.chance_level import MIN_PAIRS, ChanceLevel
from pipeline.metrics.registry import BY_NAME
from pipeline.report.figures import draw_figures
from pipeline.report.listening_page import listening_page
from pipeline.report.page_grid import axes, setting_words
from pipeline.report.spec import FindingsSpec
from pipeline.report.track_picks import pick_tracks
from pipeline.storage.audio_files import load, load_cover
from pipeline.storage.parquet_parts import encode_parquet
from pipeline.storage.store import Store

log = logging.getLogger(__name__)
FOLDER, PAGE = "comparison", "listen.html"
COVER_COLUMNS = ("item_id", "track_id", "setting_id", "setting_name", "seed", "status", OUTCOME, REASON)
HEADLINES = 2  # sentences above the players: the best setting, and those that cannot be told apart from it


@dataclass(frozen=True)
class Findings:
    """The findings of a folder.

    rows: the covers, each with its outcome and score.
    files: contents by name in the folder ``comparison``: tables, figures, the listening page.
    """

    rows: pa.Table
    comparison: Comparison
    chance: ChanceLevel
    sentences: tuple[str, ...]
    files: Mapping[str, bytes]


def make_findings(output: Store, rows: pa.Table, spec: FindingsSpec, title: str) -> Findings:
    """Judge and compare covers, and write the files to ``comparison`` of the output folder.

    Args:
        rows: of ``FINDINGS_COLUMNS``, some of them measured.
    """
    rows = rows.filter(pc.not_equal(rows["status"], "rejected"))
    chance = run_chance_level(output, rows)
    rows = judge(rows, chance, spec.objective)
    comparison = compare(rows, spec.objective)
    sentences = (*explain(comparison), *_caveats(rows, chance))
    files = _tables(rows, comparison, chance, spec.objective)
    if spec.pictures:
        files |= draw_figures(rows, comparison)
    if spec.listen_tracks:
        samples = pick_tracks(rows, spec.listen_tracks)
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
    return Findings(rows, comparison, chance, sentences, files)


def _caveats(rows: pa.Table, chance: ChanceLevel) -> list[str]:
    """Limitations of the findings, in sentences."""
    caveats = []
    ok = rows.filter(pc.equal(rows["status"], "ok"))
    unknown = ok.filter(pc.is_null(ok[OUTCOME]))
    if len(unknown):
        reason = unknown[REASON][0].as_py()
        caveats.append(f"{len(unknown)} of {len(ok)} covers are not judged, the first since {reason}")
    if chance.pairs < MIN_PAIRS:
        caveats.append(
            f"chance is a usual one: the run has {chance.pairs} pairs of unrelated tracks, {MIN_PAIRS} are needed"
        )
    return caveats


def _tables(rows: pa.Table, comparison: Comparison, chance: ChanceLevel, objective: Objective) -> dict[str, bytes]:
    measured = [name for name in BY_NAME if rows[name].null_count < len(rows)]
    covers = rows.select([*COVER_COLUMNS, KEPT, MOVED, SCORE, *measured, "unmeasured"])
    tables = {
        "covers": with_columns_of(covers, rows[META]),
        "settings": comparison.settings,
        "outcomes": comparison.outcomes,
        "pairs": comparison.pairs,
    }
    files = {f"{name}.parquet": encode_parquet(table) for name, table in tables.items()}
    documents = {"null": asdict(chance), "objective": asdict(objective)}
    return files | {f"{name}.json": json.dumps(values, indent=2).encode() for name, values in documents.items()}
