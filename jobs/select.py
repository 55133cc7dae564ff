"""Take the best cover of every track, among its seeds and settings, to a folder of their own.

    python -m jobs.select output=out export=winners
    python -m jobs.select output=out export=s3://label/winners objective.kept=[melody/salience_excess]

Best is the cover with the highest score: the harmonic mean of how much of the song is kept and how far its sound
has moved, and never one that copies its source or loses the song. ``winners.csv`` says which, by how much, and of
which tracks there is none.

Exit status: 0 every track has a winner; 1 broke off; 2 could not start; 3 done, and some tracks have none; 130
interrupted (143 by SIGTERM, 129 by SIGHUP).
"""

from omegaconf import DictConfig

from jobs.command_line import complete
from jobs.leaving import AGAIN, INCOMPLETE, OK, leaving
from jobs.runner import launch
from jobs.schema import build
from pipeline.workflows.printing import plain_console
from pipeline.workflows.specs import SelectJob

MAX_LINES = 20


def run(config: DictConfig) -> int:
    """Do the job; the exit status."""
    console = plain_console()
    with leaving(kept=AGAIN):
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
