"""Filter known harmless lines that Ray's core writes to standard error."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Harmless: Ray Data keeps the arguments of its actors alive, so a restarted actor finds them.
KNOWN = r"core_worker\.cc:\d+: Actor .* has constructor arguments in the object store and max_restarts > 0"
# Filtering happens in a child process, so the last lines of an aborting parent are still forwarded.
_FORWARD = """
import re, sys
known = re.compile(sys.argv[1].encode())
for line in iter(sys.stdin.buffer.readline, b""):
    if not known.search(line):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""
PATIENCE_S = 1.0


@contextmanager
def drop_known_lines(known: str = KNOWN) -> Iterator[None]:
    """Drop matching lines of this process's standard error while the block runs.

    Args:
        known: regular expression.
    """
    sys.stderr.flush()
    shown = os.dup(2)
    try:
        command = [sys.executable, "-I", "-S", "-c", _FORWARD, known]
        forward = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=shown, stderr=subprocess.DEVNULL, start_new_session=True
        )
    except OSError:  # process limit reached: do not filter
        os.close(shown)
        yield
        return
    assert forward.stdin is not None
    os.dup2(forward.stdin.fileno(), 2)
    forward.stdin.close()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(shown, 2)
        os.close(shown)
        with suppress(subprocess.TimeoutExpired):  # a child started meanwhile still holds the pipe
            forward.wait(PATIENCE_S)
