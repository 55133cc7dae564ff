"""Launchable jobs: ``restyle VERB`` or ``python -m jobs.NAME``."""

import importlib.util
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

from jobs.streams import make_lasting

PACKAGES = ("acestep", "conf", "pipeline")


def prepare() -> None:
    """Set up the process of a job: lasting streams, signal handlers, a check for shadowed packages."""
    make_lasting()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stopped)
    refuse_shadows(Path(__file__).parents[1])


def refuse_shadows(home: Path) -> None:
    """Exit with status 2 if a package of another folder shadows the one in ``home``."""
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        place = Path(spec.origin).parent if spec and spec.origin else None
        if place is None or place.resolve() != (home / name).resolve():
            print(
                f"error: {name} is imported from {place or 'nowhere'} in place of {home / name}; use the command "
                "`restyle`, start elsewhere, or take out what put that folder on Python's path",
                file=sys.stderr,
            )
            sys.exit(2)


def _stopped(number: int, frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(2, b"stopped\n")
    os._exit(128 + number)


if sys.argv[0] == "-m":  # A job is being launched: handle signals during its imports.
    prepare()
