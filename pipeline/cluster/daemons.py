"""Ray's daemons of a cluster that a job starts: what ends the job leaves them to the job.

``timeout`` and shells signal a process group, systemd a control group. Daemons that got the same SIGTERM would be
gone before the job has finished the covers under way.
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
    """A process of Ray that does not listen to SIGTERM, and is killed together with those that it started."""

    @property
    def name(self) -> str:
        """Such as "gcs_server"."""
        command: Any = self.args
        return Path(command[0]).name

    def terminate(self) -> None:
        self.kill()

    def kill(self) -> None:
        if self.poll() is None:
            workers = psutil.Process(self.pid).children(recursive=True)
            os.killpg(self.pid, signal.SIGKILL)
            for worker in workers:  # in groups of their own; they would notice, some seconds later
                with suppress(psutil.NoSuchProcess):
                    worker.kill()


@contextmanager
def detached_daemons() -> Iterator[list[Daemon]]:
    """Within the block, ``ray.init`` starts daemons in groups of their own that ignore SIGTERM and SIGHUP.

    They die with the job all the same: Ray has the kernel see to it. Yields the list of those started.
    """
    started: list[Daemon] = []

    def start(*arguments: Any, **settings: Any) -> Daemon:
        started.append(Daemon(*arguments, **settings, process_group=0))
        return started[-1]

    # Ray has no option for it.
    with patch.object(services, "ConsolePopen", start), block_stop_signals(), keep_signal_handlers():
        yield started


@contextmanager
def keep_signal_handlers() -> Iterator[None]:
    """Within the block, ``ray.init`` leaves SIGTERM to the handler that is set, if there is one."""
    if not callable(signal.getsignal(signal.SIGTERM)):
        yield
        return
    with patch.object(utils, "set_sigterm_handler", lambda handler: None):
        yield
