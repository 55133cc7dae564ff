"""Protect Ray's daemons from the signals that stop the job which started them.

``timeout`` and shells signal a process group, systemd a control group. Daemons that receive the job's SIGTERM
would end before the job has finished the covers in progress.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
from ray._private import services, utils

from pipeline.cluster.signals import block_stop_signals


class Daemon(services.ConsolePopen):
    """A Ray daemon that ignores SIGTERM and is killed together with its child processes."""

    @property
    def name(self) -> str:
        """Name of the executable, such as "gcs_server"."""
        command: Any = self.args
        return Path(command[0]).name

    def terminate(self) -> None:
        self.kill()

    def kill(self) -> None:
        if self.poll() is None:
            workers = psutil.Process(self.pid).children(recursive=True)
            os.killpg(self.pid, signal.SIGKILL)
            for worker in workers:  # in process groups of their own; they notice only seconds later
                with suppress(psutil.NoSuchProcess):
                    worker.kill()


@contextmanager
def detached_daemons() -> Iterator[list[Daemon]]:
    """Within the block, ``ray.init`` starts daemons in their own process groups that ignore SIGTERM and SIGHUP.

    Yields the list of started daemons. They still end with the job (parent death signal).
    """
    started: list[Daemon] = []

    def start(*arguments: Any, **settings: Any) -> Daemon:
        started.append(Daemon(*arguments, **settings, process_group=0))
        return started[-1]

    # Ray has no option for this.
    with patch.object(services, "ConsolePopen", start), block_stop_signals(), keep_signal_handlers():
        yield started


@contextmanager
def keep_signal_handlers() -> Iterator[None]:
    """Within the block, ``ray.init`` keeps an existing SIGTERM handler."""
    if not callable(signal.getsignal(signal.SIGTERM)):
        yield
        return
    with patch.object(utils, "set_sigterm_handler", lambda handler: None):
        yield
