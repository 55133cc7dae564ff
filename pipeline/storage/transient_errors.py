"""Which failures are transient: the next launch makes their items again; every other failed row is final.

A transient failure says nothing about the track or its setting: storage that did not answer, memory that ran
short, a source that is not the one that was planned. A missing file and damaged audio are verdicts.
"""

import errno

TRANSIENT_KINDS = frozenset(
    {
        "storage_error",
        "source_unavailable",
        "source_changed",
        "source_timeout",
        "out_of_memory",
    }
)
# Errors of a path that say what is there, or that it may not be read; any other error of reading is transient, an
# object store's without a number included.
_VERDICTS = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ELOOP),
        *(errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL),
        *(errno.EACCES, errno.EPERM),
    }
)


def is_transient(error: OSError) -> bool:
    """Whether what could not be read may be readable later: an I/O error, a mount or a server that is away."""
    return error.errno not in _VERDICTS
