"""Prints findings on a terminal: the settings by score, and sentences."""

from typing import Any

import pyarrow.compute as pc
from rich.console import Console

from pipeline.evaluation.comparison import is_judged, not_judged
from pipeline.evaluation.objective import KEPT, MOVED, SCORE
from pipeline.report.findings import Findings
from pipeline.workflows.printing import table_lines

MAX_ROWS = 20
SHOWN = {
    SCORE: "score",
    KEPT: "kept",
    MOVED: "moved",
    "harmony/chroma_excess": "harmony",
    "melody/salience_excess": "melody",
    "structure/ssm_corr": "form",
}


def print_findings(console: Console, findings: Findings) -> None:
    """Print a row for each setting, the best first, then sentences."""
    rows = _rows(findings)
    cells = [
        [row["setting_name"], *(_number(row, name) for name in SHOWN), _counts(row)] for row in rows[:MAX_ROWS]
    ]
    console.print("settings, best first; means over tracks", style="italic")
    for line in table_lines([["setting", *SHOWN.values(), "covers"], *cells]):
        console.print(line)
    if len(rows) > MAX_ROWS:
        console.print(f"  ... and {len(rows) - MAX_ROWS} more")
    for sentence in findings.sentences:
        console.print(sentence)


def _rows(findings: Findings) -> list[dict[str, Any]]:
    rows = {row["setting_id"]: row for row in findings.comparison.outcomes.to_pylist()}
    settings = findings.comparison.settings
    for row in settings.filter(
        pc.is_in(settings["measure"], value_set=pc.cast(list(SHOWN), "string"))
    ).to_pylist():
        if row["measure"] != SCORE or is_judged(rows[row["setting_id"]]):
            rows[row["setting_id"]][row["measure"]] = row
    return sorted(rows.values(), key=lambda row: -(row[SCORE]["mean"] or 0.0) if SCORE in row else 1.0)


def _number(row: dict[str, Any], name: str) -> str:
    if name not in row or row[name]["mean"] is None:
        return "-"
    found = row[name]
    around = f" ({found['low']:.2f}..{found['high']:.2f})" if name == SCORE and found["low"] is not None else ""
    return f"{found['mean']:.2f}{around}"


def _counts(row: dict[str, Any]) -> str:
    counts = {kind: row[kind] for kind in ("ok", "copy", "lost", "failed")} | {"not judged": not_judged(row)}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
