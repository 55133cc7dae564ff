"""Runs work under attempt guards: concurrently first, alone after a death or without memory."""

import logging
from collections.abc import Callable
from typing import TypeVar

from acestep.runtime.torch_errors import ran_out_of_memory
from pipeline.storage.store import Store
from pipeline.worker.attempts import AttemptGuard
from pipeline.worker.error_rows import release_memory
from pipeline.worker.shared_lock import SharedLock

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class GuardedRunner:
    """Runs work of several threads, each under an ``AttemptGuard``.

    Work that has killed the process before, or that ran out of memory, runs alone, so that a failure is blamed on
    the item that causes it.
    """

    def __init__(self, output: Store, launch: str, max_attempts: int):
        self.output, self.launch, self.max_attempts = output, launch, max_attempts
        self.sharing = SharedLock()

    def __call__(self, name: str, what: str, work: Callable[[AttemptGuard], Result]) -> Result:
        """Run ``work``.

        Args:
            name: of the attempt markers; what: the work, for people.
        """
        guard = AttemptGuard(self.output, f"{self.launch}/{name}", self.max_attempts, what)
        if guard.attempt == 1:
            try:
                with self.sharing.together(), guard:
                    return work(guard)
            except Exception as error:
                if not ran_out_of_memory(error):
                    raise
                log.warning("%s: %s; trying again without others beside it", what, error)
        with self.sharing.alone():
            release_memory()
            with guard:
                return work(guard)
