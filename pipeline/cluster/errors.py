"""Why a cluster or a job on it ends early."""

from acestep.errors import RestyleError


class PoolError(RestyleError):
    """Workers did not start, or the cluster was lost."""


class StoppedError(RestyleError):
    """The job stopped on request.

    signal: number of the signal that requested it.
    """

    def __init__(self, message: str, number: int):
        super().__init__("stopped", message)
        self.signal = number
