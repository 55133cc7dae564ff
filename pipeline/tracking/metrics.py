"""MLflow metrics of result rows and findings.

MLflow's views open on the metric that was logged first, and list metrics by name, capitals first. Hence the
objective is called ``Objective`` and is logged first: contour, scatter and parallel coordinates plots open on it.
"""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluation.comparison import is_judged, not_judged
from pipeline.evaluation.objective import KEPT, MOVED, SCORE
from pipeline.report.findings import Findings
from pipeline.results.queries import WORK_COLUMNS, count_kinds

FAILED, REJECTED = "failed/", "rejected/"
OBJECTIVE = "Objective"
# Measures whose spread is logged as well; the tables have it for all.
SPREAD = (SCORE, KEPT, MOVED, "harmony/chroma_excess", "melody/salience_excess", "structure/ssm_corr")
# Metric names of earlier versions, still updated in runs that have them. They were ambiguous: a finished cover
# ("ok") may have lost the song (not "ok"), device time is not always GPU time, and ``progress/`` has another rate.
RENAMED = {
    "covers_ok": "covers_made",
    "time/gpu_s": "time/device_s",
    "cover/ok": "outcome/ok",
    "cover/copy": "outcome/copy",
    "cover/lost": "outcome/lost",
    "cover/failed": "covers_failed",
    "tracks_per_minute": "job_tracks_per_minute",
}
ON_DEVICE = ("condition_seconds", "denoise_seconds", "decode_seconds")


def measures(rows: pa.Table) -> dict[str, float]:
    """Metrics of result rows: counts, failures by kind, and rates."""
    ok = pc.equal(rows["status"], "ok")
    failed, rows = rows.filter(pc.invert(ok)), rows.filter(ok)
    audio_s = pc.sum(rows["duration_s"]).as_py() or 0.0
    parts = {
        f"{name.removesuffix('_s')}_seconds": pc.sum(rows[name]).as_py() or 0.0
        for name in WORK_COLUMNS
        if name != "read_s"  # reading waits for the network and other tracks, not for the device
    }
    values = {"covers_made": len(rows), "covers_failed": len(failed), "audio_seconds": audio_s, **parts}
    values |= {f"{FAILED}{kind}": count for kind, count in count_kinds(failed).items()}
    if audio_s:
        values["seconds_per_cover"] = sum(parts.values()) / len(rows)
        values["time/rtf"] = sum(parts.values()) / audio_s
        values["time/device_s"] = sum(parts[name] for name in ON_DEVICE) / len(rows)
    return values


def setting_metrics(findings: Findings, setting_id: str) -> dict[str, float]:
    """Metrics of one setting: the mean of each measure over tracks, and the spread of some."""
    values: dict[str, float] = {}
    settings, outcomes = findings.comparison.settings, findings.comparison.outcomes
    (outcome,) = outcomes.filter(pc.equal(outcomes["setting_id"], setting_id)).to_pylist() or [None]
    for row in settings.filter(pc.equal(settings["setting_id"], setting_id)).to_pylist():
        if row["mean"] is None:
            continue
        if row["measure"] == SCORE and not (outcome and is_judged(outcome)):
            continue
        name = OBJECTIVE if row["measure"] == SCORE else row["measure"]
        values[name] = row["mean"]
        if row["measure"] in SPREAD:
            spread = {key: row[key] for key in ("sd", "low", "high", "n", "tracks") if row[key] is not None}
            values |= {f"stats/{name}/{key}": float(value) for key, value in spread.items()}
    if outcome:
        judged = {f"outcome/{kind}": float(outcome[kind]) for kind in ("ok", "copy", "lost")}
        steps = {"cover/steps_cover": outcome["cover_steps"], "cover/t_switch": outcome["t_switch"]}
        values |= judged | {"outcome/not_judged": float(not_judged(outcome))}
        values |= {name: float(value) for name, value in steps.items() if value is not None}
    return values


def job_metrics(findings: Findings) -> dict[str, float]:
    """Metrics of the chance level, and the number of compared settings."""
    values = {
        "settings_compared": float(len(findings.comparison.outcomes)),
        "null/pairs": float(findings.chance.pairs),
    }
    values |= {f"null/{name}/mean": mean for name, mean in findings.chance.mean.items()}
    values |= {f"null/{name}/p95": level for name, level in findings.chance.p95.items()}
    return values
