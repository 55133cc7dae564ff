"""What result rows and findings amount to, as metrics of MLflow.

MLflow opens its views on the metric that was logged first, and lists them by name, capitals before small letters.
So the objective is called ``Objective`` and comes first, and contour, scatter and parallel coordinates begin with
the question that is asked.
"""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluation.comparison import is_judged, not_judged
from pipeline.evaluation.objective import KEPT, MOVED, SCORE
from pipeline.report.findings import Findings
from pipeline.results.queries import WORK_COLUMNS, count_kinds

FAILED, REJECTED = "failed/", "rejected/"
OBJECTIVE = "Objective"
# Their spread is logged too; of the others the tables tell.
SPREAD = (SCORE, KEPT, MOVED, "harmony/chroma_excess", "melody/salience_excess", "structure/ssm_corr")
# Names of earlier versions, kept up to date in runs that have them. They contradicted each other: a cover that was
# made ("ok") may have lost the song (not "ok"), the time of a CPU is no GPU's, and ``progress/`` has another rate.
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
    """Counts, failures by kind and rates of result rows, as metric names."""
    ok = pc.equal(rows["status"], "ok")
    failed, rows = rows.filter(pc.invert(ok)), rows.filter(ok)
    audio_s = pc.sum(rows["duration_s"]).as_py() or 0.0
    parts = {
        f"{name.removesuffix('_s')}_seconds": pc.sum(rows[name]).as_py() or 0.0
        for name in WORK_COLUMNS
        if name != "read_s"  # reading waits for the network and for other tracks, not for the device
    }
    values = {"covers_made": len(rows), "covers_failed": len(failed), "audio_seconds": audio_s, **parts}
    values |= {f"{FAILED}{kind}": count for kind, count in count_kinds(failed).items()}
    if audio_s:
        values["seconds_per_cover"] = sum(parts.values()) / len(rows)
        values["time/rtf"] = sum(parts.values()) / audio_s
        values["time/device_s"] = sum(parts[name] for name in ON_DEVICE) / len(rows)
    return values


def setting_metrics(findings: Findings, setting_id: str) -> dict[str, float]:
    """What one setting came to, as metric names: the mean of each measure over tracks, and of some its spread."""
    values: dict[str, float] = {}
    settings, outcomes = findings.comparison.settings, findings.comparison.outcomes
    (told_of,) = outcomes.filter(pc.equal(outcomes["setting_id"], setting_id)).to_pylist() or [None]
    for row in settings.filter(pc.equal(settings["setting_id"], setting_id)).to_pylist():
        if row["mean"] is None:  # none of its covers has it
            continue
        if row["measure"] == SCORE and not (told_of and is_judged(told_of)):
            continue
        name = OBJECTIVE if row["measure"] == SCORE else row["measure"]
        values[name] = row["mean"]
        if row["measure"] in SPREAD:
            told = {key: row[key] for key in ("sd", "low", "high", "n", "tracks") if row[key] is not None}
            values |= {f"stats/{name}/{key}": float(value) for key, value in told.items()}
    if told_of:
        judged = {f"outcome/{kind}": float(told_of[kind]) for kind in ("ok", "copy", "lost")}
        steps = {"cover/steps_cover": told_of["cover_steps"], "cover/t_switch": told_of["t_switch"]}
        values |= judged | {"outcome/not_judged": float(not_judged(told_of))}
        values |= {name: float(value) for name, value in steps.items() if value is not None}
    return values


def job_metrics(findings: Findings) -> dict[str, float]:
    """What chance gives, as metric names, and how many settings were compared."""
    values = {
        "settings_compared": float(len(findings.comparison.outcomes)),
        "null/pairs": float(findings.chance.pairs),
    }
    values |= {f"null/{name}/mean": mean for name, mean in findings.chance.mean.items()}
    values |= {f"null/{name}/p95": level for name, level in findings.chance.p95.items()}
    return values
