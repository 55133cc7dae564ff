"""Markers of work under way, in files that outlive the process: a track that kills its worker is found out.

Ray restarts a dead worker and hands it the same track for ever; the markers end that. Only deaths within one
launch count: what was stopped from outside is not to blame.
"""

import logging
import os
import platform

import torch

from acestep.errors import RestyleError
from pipeline.storage import Store

log = logging.getLogger(__name__)
ATTEMPTS = "attempts"


class WorkerDiedError(RestyleError):
    """An item took its worker process down too often."""


class AttemptGuard:
    """Counts how often work was begun and not left again."""

    def __init__(self, store: Store, name: str, most: int):
        self.store, self.name, self.most = store, name, most
        self.attempt = 1
        while store.exists(self._marker(self.attempt)):
            self.attempt += 1

    def _marker(self, attempt: int) -> str:
        return f"{ATTEMPTS}/{self.name}.{attempt}"

    def __enter__(self) -> "AttemptGuard":
        if self.attempt > self.most:
            # Its markers stay: the task may run again, and must come to the same answer.
            raise WorkerDiedError(f"the worker process died {self.most} times at this item; it is not tried again")
        self.store.write(self._marker(self.attempt), f"{platform.node()} {os.getpid()}".encode())
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and _breaks_device(error):
            # After such an error every later call on the device fails: leave, with the marker standing, so that
            # the death counts and Ray starts a fresh process.
            log.critical("the device is broken, leaving: %s", error)
            os._exit(1)
        self._clear(self.attempt)

    def _clear(self, last: int) -> None:
        for attempt in range(1, last + 1):
            self.store.delete(self._marker(attempt))


def _breaks_device(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and "CUDA err" in str(error)
    )


def mark_start(store: Store, launch: str) -> None:
    """Forget earlier launches, and leave a file by which workers know the driver's output folder."""
    store.delete_folder(ATTEMPTS)
    store.write(_start(launch), b"")


def is_marked(store: Store, launch: str) -> bool:
    """Whether ``mark_start`` of this launch is seen here."""
    return store.exists(_start(launch))


def _start(launch: str) -> str:
    return f"{ATTEMPTS}/{launch}/started"
