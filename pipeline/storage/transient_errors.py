"""Transient failure kinds: the next launch retries their items. Every other failed row is final.

A transient failure is not a property of the track or its setting: storage that did not answer, memory that ran
short, a source that changed after planning. A missing file and damaged audio are permanent.
"""

import errno

from acestep.error_kinds import KINDS

TRANSIENT_KINDS = frozenset(name for name, kind in KINDS.items() if kind.retryable)
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# Errors about the path itself or its permissions. Any other read error is transient, including those of object
# stores, which have no errno.
_PERMANENT = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ELOOP),
        *(errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL),
        *(errno.EACCES, errno.EPERM),
    }
)


def is_transient(error: OSError) -> bool:
    """Whether a later read may succeed: an I/O error, or a mount or server that is unreachable."""
    return error.errno not in _PERMANENT


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that a disk or a quota is full."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in FULL:
            return True
        cause = cause.__cause__
    return False
