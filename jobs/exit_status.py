"""Exit statuses and messages of a job that fails or is interrupted."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from acestep.errors import RestyleError
from pipeline.cluster.errors import PoolError, StoppedError
from pipeline.cluster.signals import handle_stop_signals, raise_on_stop_signals
from pipeline.storage.lease import LeaseLostError, OutputGoneError
from pipeline.workflows.printing import plain_console

if TYPE_CHECKING:
    from pipeline.workflows.console import ConsoleReporter

OK, BROKE_OFF, COULD_NOT_START, INCOMPLETE = 0, 1, 2, 3
KEPT = "what is finished is kept, and the same command goes on from here"
AGAIN = "the same command does it again"


@contextmanager
def exit_on_error(reporter: "ConsoleReporter | None" = None, kept: str = KEPT) -> Iterator[None]:
    """Exit with a message and a status when the block raises or a stop signal arrives.

    Args:
        reporter: its progress bar is removed first. A storage failure before it reported the plan counts as a job
            that could not start.
        kept: end of the message, about finished work.
    """
    with raise_on_stop_signals() as status_of:
        yield from _exit_statuses(reporter, kept, status_of)


def _exit_statuses(
    reporter: "ConsoleReporter | None", kept: str, status_of: Callable[[KeyboardInterrupt], int]
) -> Iterator[None]:
    try:
        yield
    except OutputGoneError as error:  # whether results are kept is unknown
        _leave(reporter, f"error: {error}", BROKE_OFF)
    except (PoolError, LeaseLostError) as error:
        _leave(reporter, f"error: {error}; {kept}", BROKE_OFF)
    except StoppedError as error:
        _leave(reporter, f"{error}; {kept}", 128 + error.signal)
    except RestyleError as error:
        _leave(reporter, f"error: {error}", COULD_NOT_START)
    except OSError as error:
        if reporter is not None and not reporter.begun:
            _leave(reporter, f"error: could not start: {error}", COULD_NOT_START)
        _leave(reporter, f"error: storage failed: {error}; {kept}", BROKE_OFF)
    except KeyboardInterrupt as stopped:
        _leave(reporter, f"interrupted: {kept}", status_of(stopped))


def _leave(reporter: "ConsoleReporter | None", message: str, status: int) -> NoReturn:
    with handle_stop_signals(lambda number: None):  # further signals must not change message and status
        if reporter is not None:
            reporter.stop()
        plain_console(stderr=True).print(message, style="red")
    sys.exit(status)
