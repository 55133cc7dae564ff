"""Compares the covers of an output folder: tables, figures, listening page and tracking, from its files alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from acestep.sampling.setting import SETTING_FIELDS
from pipeline.catalogue.grid import short_name
from pipeline.evaluation.judging import measured_rows
from pipeline.report.findings import Findings, make_findings
from pipeline.results.job_file_reader import read_record
from pipeline.results.repair import check_parts
from pipeline.storage.lease import LeasedStore, hold_lease
from pipeline.tracking.tracker import Tracker
from pipeline.workflows.restyle_job import existing_output
from pipeline.workflows.specs import CompareJob


@dataclass(frozen=True)
class ComparedSetting:
    """A setting of result rows; ``varied`` holds the parameters that differ between settings."""

    setting_id: str
    name: str
    varied: Mapping[str, Any]


def compare_folder(job: CompareJob, warn: Callable[[str], None]) -> tuple[Findings, dict[str, str]]:
    """Compare the settings of a folder.

    Returns:
        The findings, and links to the runs (empty without tracking).

    Raises:
        RequestError: the folder holds no covers, or none was measured.
        HeldError: a launch works on it.
    """
    with hold_lease(existing_output(job.output), f"output {job.output}", warn) as output:
        return compare_in(output, job, warn)


def compare_in(
    output: LeasedStore, job: CompareJob, warn: Callable[[str], None]
) -> tuple[Findings, dict[str, str]]:
    """``compare_folder`` in a folder whose lease the caller holds."""
    check_parts(output)
    rows = measured_rows(output, job.output)
    record = read_record(output, warn)
    name = job.catalogue or record["catalogue"] or job.output.rstrip("/").rsplit("/", 1)[-1]
    tracking = replace(job.tracking, experiment=job.tracking.experiment or _experiment(record))
    tracker = Tracker(tracking, name, output, job.output)
    settings = settings_of(rows)
    names = {setting.setting_id: setting.name for setting in settings}
    called = pa.array([names.get(setting_id) for setting_id in rows["setting_id"].to_pylist()], pa.string())
    rows = rows.set_column(rows.column_names.index("setting_name"), "setting_name", called)
    findings = make_findings(output, rows, job.findings, name)
    # Parameters are those of the last launch; earlier launches may have varied some of them.
    varied = {key for setting in settings for key in setting.varied}
    constant = {key: value for key, value in record["parameters"].items() if key not in varied}
    tracker.begin(constant, settings, warn, record["labels"] | {"restyle.catalogue": name})
    return findings, tracker.finish(rows, 0.0, warn, findings=findings)


def _experiment(record: Mapping[str, Any]) -> str | None:
    """The tracking experiment of the folder's own job."""
    found: str | None = (record.get("job", {}).get("tracking") or {}).get("experiment")
    return found


def settings_of(rows: pa.Table) -> list[ComparedSetting]:
    """The settings of result rows, ordered by name."""
    fields = (*SETTING_FIELDS, "stage")
    keys = ["setting_id", "setting_name", *fields]
    rows = rows.filter(pc.is_valid(rows["setting_id"])).select(keys)
    # As text, since a list cannot be a group key.
    times = pa.array([value and str(value) for value in rows["timesteps"].to_pylist()], pa.string())
    rows = rows.set_column(keys.index("timesteps"), "timesteps", times)
    values: dict[str, dict[str, set[Any]]] = {}
    names = {}
    for row in rows.group_by(keys).aggregate([]).to_pylist():
        names[row["setting_id"]] = row["setting_name"]
        own = values.setdefault(row["setting_id"], {name: set() for name in fields})
        for name in fields:
            own[name].add(row[name])
    # Values that differ within a setting belong to tracks.
    fixed = [name for name in fields if all(len(own[name]) == 1 for own in values.values())]
    varied = [name for name in fixed if len(set.union(*(own[name] for own in values.values()))) > 1]
    own_values = {key: {name: next(iter(own[name])) for name in varied} for key, own in values.items()}
    if len(set(names.values())) < len(names):  # launches with the same sweep and other constants
        names = {key: short_name(own_values[key]) or name for key, name in names.items()}
    return [
        ComparedSetting(setting_id, name, own_values[setting_id])
        for setting_id, name in sorted(names.items(), key=lambda item: (item[1], item[0]))
    ]
