"""Measure existing covers: of an output folder, or of any list of source and output files.

    python -m jobs.measure output=out
    python -m jobs.measure pairs=pairs.csv output=measured
    python -m jobs.measure output=out again=true metrics.melody=true

``pairs`` names a CSV, JSON-lines or Parquet file with the columns ``source`` and ``output``, and ``track_id``,
``setting``, ``seed``, ``caption`` and any parameter if known; its rows are written to ``results`` of the output
folder. ``manifest_columns`` declares your own columns, as in ``jobs.restyle``. ``jobs.compare`` accepts the folder
like any other. A second launch measures only missing covers.

Exit status: 0 all covers are measured; 1 aborted; 2 could not start; 3 some covers could not be measured; 130
interrupted (143 by SIGTERM, 129 by SIGHUP).
"""

import time

from omegaconf import DictConfig

from jobs.config_keys import complete
from jobs.exit_status import INCOMPLETE, OK, exit_on_error
from jobs.runner import launch
from jobs.schema import build
from pipeline.catalogue.own_columns import parse_declared
from pipeline.workflows.printing import plain_console
from pipeline.workflows.specs import MeasureJob

LINE_INTERVAL_S = 10.0


def run(config: DictConfig) -> int:
    """Do the job; the exit status."""
    with exit_on_error():
        values = complete(config)
        job = build(MeasureJob, values, manifest_columns=parse_declared(values["manifest_columns"]))
    from pipeline.workflows.measure import MeasureProgress, measure_all  # imports torch and Ray

    console = plain_console()
    said_at = time.monotonic()

    def progressed(done: MeasureProgress) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= LINE_INTERVAL_S:
            said_at = time.monotonic()
            console.print(f"{done.covers} covers measured")

    with exit_on_error():
        done = measure_all(job, progressed)
    console.print(
        f"{done.covers} covers measured, {done.failed} could not be; {done.audio_s / 60:.1f} min of covers at "
        f"{done.cost:.2f} s of work per minute, reading left out",
    )
    for message in done.reasons:
        console.print(f"  {message}")
    console.print(f"{'next':8} python -m jobs.compare output={job.output}")
    return INCOMPLETE if done.failed else OK


def main() -> None:
    """Run, as ``launch`` says."""
    launch("measure", run)


if __name__ == "__main__":
    main()
