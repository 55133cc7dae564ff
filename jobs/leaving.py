"""How a job that makes covers ends when it does not end well: one message, and a status that says which way."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console

from acestep.errors import RestyleError
from pipeline.cluster import PoolError
from pipeline.console import ConsoleReporter
from pipeline.stopping import StoppedError, StoppedNow

OK, BROKE_OFF, COULD_NOT_START, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130
KEPT = "what is finished is kept, and the same command goes on from here"


@contextmanager
def leaving(reporter: ConsoleReporter) -> Iterator[None]:
    """Ends the process with a message and a status when what it holds raises."""
    try:
        yield
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


def _leave(reporter: ConsoleReporter, message: str, status: int) -> NoReturn:
    reporter.stop()
    Console(stderr=True).print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(status)
