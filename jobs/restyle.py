"""Restyle a catalogue.

    python -m jobs.restyle manifest=tracks.csv output=out model=turbo
    python -m jobs.restyle manifest=tracks.csv output=out grid.audio_cover_strength=[0.3,0.5] grid.seed=[1,2]
    python -m jobs.restyle manifest=tracks.csv output=out model=base preset=country_to_heavy_metal

``dry_run=true`` looks at everything, makes nothing, and says what is left to do.

Exit status: 0 every cover is there; 2 nothing could start; 3 finished, and some tracks failed or were rejected;
1 broke off; 130 stopped by Ctrl-C, 143 by SIGTERM, after the covers under way (a second one does not wait for
them): what is finished is kept, and the same command goes on from there. ``--cfg job`` prints the whole
configuration.
"""

import sys
from collections.abc import Sequence
from typing import Any, NoReturn, cast

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from acestep.errors import RestyleError
from jobs.command_line import given, launch
from jobs.presets import read_presets, search_path
from jobs.schema import register
from pipeline.cluster import ClusterSpec, PoolError
from pipeline.console import ConsoleReporter
from pipeline.job import RestyleJob, dry_run
from pipeline.presets import Preset
from pipeline.restyle import run
from pipeline.stopping import StoppedError, StoppedNow
from pipeline.tracking import TrackingSpec

OK, BROKE_OFF, COULD_NOT_START, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130
KEPT = "what is finished is kept, and the same command goes on from here"

register()
_entered: list[bool] = []


def job_of(config: DictConfig, by_hand: Sequence[str] = (), presets: Sequence[Preset] = ()) -> RestyleJob:
    """The job that a composed configuration describes.

    Args:
        by_hand: parameters of ``cover`` that were given on the command line.
        presets: what manifest rows may name by their genres.

    Raises:
        RestyleError: a required value is missing.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        example = " ".join(f"{name}=..." for name in missing)
        raise RestyleError(f"{', '.join(missing)} not given; add {example}")
    values = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    values["duplicates"] = values["grid"].pop("duplicates")
    del values["dry_run"]
    preset = values.pop("preset")
    values |= {"preset": preset["name"], "caption": preset["caption"]}
    nested: dict[str, Any] = {
        "cluster": ClusterSpec(**values.pop("cluster")),
        "tracking": TrackingSpec(**values.pop("tracking")),
    }
    return RestyleJob(**values, **nested, by_hand=by_hand, presets=presets)


@hydra.main(version_base="1.3", config_path="../conf", config_name="restyle")
def _main(config: DictConfig) -> None:
    _entered.append(True)
    console = Console()
    reporter = ConsoleReporter(console)
    try:
        job = job_of(config, given("cover"), read_presets(search_path()))
        if config.dry_run:
            found = dry_run(job)
            reporter.foreseen(found)
            sys.exit(INCOMPLETE if len(found.problems) else OK)
        summary = run(job, reporter)
    except PoolError as error:
        _leave(reporter, f"error: {error}; {KEPT}", BROKE_OFF)
    except StoppedError as error:
        _leave(reporter, f"{error}; {KEPT}", 128 + error.signal)
    except RestyleError as error:
        _leave(reporter, f"error: {error}", COULD_NOT_START)
    except OSError as error:
        _leave(reporter, f"error: storage failed: {error}; {KEPT}", BROKE_OFF)
    except StoppedNow as stopped:
        _leave(reporter, f"interrupted: {KEPT}", 128 + stopped.signal)
    except KeyboardInterrupt:
        _leave(reporter, f"interrupted: {KEPT}", INTERRUPTED)
    reporter.closed(job, summary)
    sys.exit(OK if summary.complete else INCOMPLETE)


def _leave(reporter: ConsoleReporter, message: str, status: int) -> NoReturn:
    reporter.stop()
    Console(stderr=True).print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(status)


def main() -> None:
    """Run, as ``launch`` says."""
    launch(_main, "restyle", COULD_NOT_START, _entered)


if __name__ == "__main__":
    main()
