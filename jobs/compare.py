"""Compare the settings of a finished folder: tables, figures, a listening page, and MLflow runs.

    python -m jobs.compare output=out
    python -m jobs.compare output=out tracking.uri=http://mlflow:5000
    python -m jobs.compare output=out tracking.enabled=false objective.half=5 listen_tracks=12

It reads only result rows and audio. Use it also after an outage of the tracking server, to track a folder on
another server, or to apply another objective. Results are written to ``comparison`` in the folder.

Exit status: 0 done; 1 aborted; 2 could not start; 3 done but not tracked; 130 interrupted (143 by SIGTERM, 129 by
SIGHUP).
"""

from omegaconf import DictConfig

from jobs.config_keys import complete
from jobs.exit_status import AGAIN, INCOMPLETE, OK, exit_on_error
from jobs.runner import launch
from jobs.schema import build
from pipeline.report.spec import FindingsSpec
from pipeline.workflows.printing import plain_console
from pipeline.workflows.specs import CompareJob


def job_of(config: DictConfig) -> CompareJob:
    """Build the job from a composed configuration.

    Raises:
        RestyleError: a required value is missing, or the objective is invalid.
    """
    values = complete(config)
    return build(CompareJob, values, findings=build(FindingsSpec, values))


def run(config: DictConfig) -> int:
    """Do the job; the exit status."""
    console = plain_console()
    with exit_on_error(kept=AGAIN):
        job = job_of(config)
        # These import torch and matplotlib.
        from pipeline.report.findings import FOLDER, PAGE
        from pipeline.workflows.compare import compare_folder
        from pipeline.workflows.console import warn_on
        from pipeline.workflows.console_findings import print_findings

        findings, links = compare_folder(job, warn_on(console))
    print_findings(console, findings)
    lines = {"tables": f"{job.output}/{FOLDER}"}
    if PAGE in findings.files:
        lines["listen"] = f"{job.output}/{FOLDER}/{PAGE}"
    lines |= links
    for name, value in lines.items():
        console.print(f"{name:8} {value}")
    return INCOMPLETE if job.tracking.enabled and not links else OK


def main() -> None:
    """Run, as ``launch`` says."""
    launch("compare", run)


if __name__ == "__main__":
    main()
