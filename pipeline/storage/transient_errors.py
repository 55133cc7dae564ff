"""Transient failure kinds: the next launch retries their items. Every other failed row is final.

A transient failure is not a property of the track or its setting: storage that did not answer, memory that ran
short, a source that changed after planning. A missing file and damaged audio are permanent.
"""

import errno

TRANSIENT_KINDS = frozenset(
    {"storage_error", "source_unavailable", "source_changed", "source_timeout", "out_of_memory"}
)
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
