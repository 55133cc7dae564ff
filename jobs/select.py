"""Copy the best cover of every track, among its seeds and settings, to another folder.

    python -m jobs.select output=out export=winners
    python -m jobs.select output=out export=s3://label/winners objective.kept=[melody/salience_excess]

The best cover has the highest score: the harmonic mean of the song's similarity and the change of its timbre.
Covers that copy their source or lose the song are excluded. ``winners.csv`` lists the winners with their margins,
and the tracks without one.

Exit status: 0 every track has a winner; 1 aborted; 2 could not start; 3 some tracks have no winner; 130
interrupted (143 by SIGTERM, 129 by SIGHUP).
"""

from omegaconf import DictConfig

from jobs.config_keys import complete
from jobs.exit_status import AGAIN, INCOMPLETE, OK, exit_on_error
from jobs.runner import launch
from jobs.schema import build
from pipeline.workflows.printing import plain_console
from pipeline.workflows.specs import SelectJob

MAX_LINES = 20


def run(config: DictConfig) -> int:
    """Do the job; the exit status."""
    console = plain_console()
    with exit_on_error(kept=AGAIN):
        job = build(SelectJob, complete(config))
        import pyarrow.compute as pc

        from pipeline.workflows.select import TABLE, select_winners  # imports torch

        winners = select_winners(job)
    without = winners.filter(pc.is_null(winners["file"]))
    console.print(f"{len(winners) - len(without)} of {len(winners)} tracks have a winner: {job.export}/{TABLE}")
    for row in without.slice(0, MAX_LINES).to_pylist():
        console.print(f"  {row['track_id']}: {row['reason']}")
    return INCOMPLETE if len(without) else OK


def main() -> None:
    """Run, as ``launch`` says."""
    launch("select", run)


if __name__ == "__main__":
    main()
