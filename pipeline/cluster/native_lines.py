"""Lines that Ray's core writes to standard error by itself and that are known to mean nothing here."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Ray Data keeps the arguments of its actors for as long as the actors live, so a restart finds them.
KNOWN = r"core_worker\.cc:\d+: Actor .* has constructor arguments in the object store and max_restarts > 0"
# A process of its own forwards all other lines, so that the last words of one that aborts still arrive.
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
    """Drop lines of this process's standard error that match, while the block runs; all others pass.

    Args:
        known: a regular expression.
    """
    sys.stderr.flush()
    shown = os.dup(2)
    try:
        command = [sys.executable, "-I", "-S", "-c", _FORWARD, known]
        forward = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=shown, stderr=subprocess.DEVNULL, start_new_session=True
        )
    except OSError:  # no more processes may be started: then the lines are shown
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
        with suppress(subprocess.TimeoutExpired):  # a child that was started meanwhile still writes to it
            forward.wait(PATIENCE_S)
