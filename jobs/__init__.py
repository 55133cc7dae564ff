"""Jobs, one verb each: ``python -m jobs.<verb>``."""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType

from jobs.streams import make_lasting


def _stopped(number: int, frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(2, b"stopped\n")
    os._exit(128 + number)


if sys.argv[0] == "-m":  # A job is being launched: handle signals during its imports, which take seconds.
    make_lasting()
    for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(_number) is not signal.SIG_IGN:
            signal.signal(_number, _stopped)
