"""Restyle a catalogue.

    python -m jobs.restyle manifest=tracks.csv output=out model=turbo
    python -m jobs.restyle manifest=tracks.csv output=out grid.audio_cover_strength=[0.3,0.5] grid.seed=[1,2]

Exit status: 0 every cover is there; 2 nothing could start; 3 finished, and some tracks failed or were rejected;
130 interrupted, the same command goes on. ``--cfg job`` prints the whole configuration.
"""

import sys
from typing import Any, cast

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from acestep.errors import RestyleError
from jobs.schema import register
from pipeline.console import ConsoleReporter
from pipeline.restyle import RestyleJob, run
from pipeline.stages import ClusterSpec
from pipeline.tracking import TrackingSpec

OK, COULD_NOT_START, INCOMPLETE, INTERRUPTED = 0, 2, 3, 130

register()


def job_of(config: DictConfig) -> RestyleJob:
    """The job that a composed configuration describes.

    Raises:
        RestyleError: a required value is missing.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        example = " ".join(f"{name}=..." for name in missing)
        raise RestyleError(f"{', '.join(missing)} not given; add {example}")
    values = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    nested: dict[str, Any] = {
        "cluster": ClusterSpec(**values.pop("cluster")),
        "tracking": TrackingSpec(**values.pop("tracking")),
    }
    return RestyleJob(**values, **nested)


@hydra.main(version_base="1.3", config_path="../conf", config_name="restyle")
def _main(config: DictConfig) -> None:
    console = Console(soft_wrap=False)
    reporter = ConsoleReporter(console)
    try:
        job = job_of(config)
        summary = run(job, reporter)
    except RestyleError as error:
        reporter.stop()
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(COULD_NOT_START)
    except KeyboardInterrupt:
        reporter.stop()
        console.print("interrupted: what is finished is kept, and the same command goes on from here")
        sys.exit(INTERRUPTED)
    reporter.closed(job, summary)
    sys.exit(OK if summary.complete else INCOMPLETE)


def main() -> None:
    """Run; a configuration that Hydra refuses ends with the same status as any other that cannot start."""
    try:
        _main()
    except SystemExit as leaving:
        # Hydra prints what is wrong and leaves with 1, which nothing of ours does.
        sys.exit(COULD_NOT_START if leaving.code == 1 else leaving.code)


if __name__ == "__main__":
    main()
