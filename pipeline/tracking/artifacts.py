"""Artifacts of the findings: a table by track, figures, the listening page, and the run description."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalogue.own_columns import META, with_columns_of
from pipeline.evaluation.objective import KEPT, MOVED, OUTCOME, REASON, SCORE
from pipeline.metrics.registry import BY_NAME
from pipeline.report.findings import FOLDER, PAGE, Findings
from pipeline.results.queries import first_rows

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_TABLE_ROWS = 2000
TABLE = "tracks.json"


def log_table(client: "MlflowClient", run: str, findings: Findings, setting_id: str) -> None:
    """Log the covers of one setting as a table, which MLflow compares with other runs' tables by track."""
    own = findings.rows.filter(pc.equal(findings.rows["setting_id"], setting_id))
    shown = ["track_id", "seed", OUTCOME, SCORE, KEPT, MOVED]
    shown += [name for name in BY_NAME if own[name].null_count < len(own)]
    log_rows(client, run, TABLE, own.select([*shown, REASON, "audio_path", META]))


def log_rows(client: "MlflowClient", run: str, name: str, rows: pa.Table) -> None:
    """Log the first rows by track as a table artifact, with ``meta`` spread into columns.

    The file is overwritten, and tagged as a table by hand: ``MlflowClient.log_table`` would append to it.
    """
    first = first_rows(rows, MAX_TABLE_ROWS, "track_id", "ascending")
    shown = with_columns_of(first.drop_columns([META]), first[META]).to_pandas()
    client.log_text(run, shown.to_json(orient="split", index=False), name)
    client.set_tag(run, "mlflow.loggedArtifacts", json.dumps([{"path": name, "type": "table"}]))


def log_files(client: "MlflowClient", run: str, findings: Findings) -> None:
    """Log tables, figures and the listening page."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in findings.files.items():
            (Path(folder) / name).write_bytes(content)
        client.log_artifacts(run, folder, FOLDER)


def description(findings: Findings | None, links: Mapping[str, str]) -> str:
    """The description of the job run, in Markdown.

    Args:
        links: see ``pipeline.tracking.uri.links``.
    """
    lines = [f"[Compare the settings]({links['compare']})", "", f"[All runs]({links['runs']})"]
    if findings is not None:
        lines += ["", *(f"- {sentence}" for sentence in findings.sentences)]
        if PAGE in findings.files:
            lines += ["", f"To listen: Artifacts, `{FOLDER}/{PAGE}`"]
    return "\n".join(lines)
