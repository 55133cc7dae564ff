"""A job goes on, and ends with its own status, whatever becomes of the readers of its output."""

import os
import subprocess
import sys
import textwrap

import pytest

LAUNCHED = "import sys; sys.argv[0] = '-m'; import jobs\n"
STATUS = 3


def job(code: str, output: int | None = None, errors: int | None = None, shell: str = "") -> tuple[int, str, str]:
    """Status, standard output and standard error of a process that was launched as a job is."""
    words = [sys.executable, "-c", LAUNCHED + textwrap.dedent(code) + f"\nsys.exit({STATUS})"]
    if shell:
        words = ["sh", "-c", f'exec "$0" "$@" {shell}', *words]
    ended = subprocess.run(
        words,
        stdout=subprocess.PIPE if output is None else output,
        stderr=subprocess.PIPE if errors is None else errors,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout or "", ended.stderr or ""


@pytest.fixture
def unread() -> int:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


PRINTS = """
    from pipeline.workflows.printing import plain_console
    import logging, os, subprocess
    print(100_000 * "x")
    plain_console().print("told")
    print("bare", file=sys.stderr)
    logging.warning("logged")
    subprocess.run(["sh", "-c", "echo child"], check=True)
    plain_console(stderr=True).print("made")
"""


def test_a_reader_that_goes_away_ends_nothing_and_is_told_once(unread: int) -> None:
    status, _, errors = job(PRINTS, output=unread)
    assert status == STATUS
    warning, *lines = errors.splitlines()
    assert warning.startswith("warning: nobody reads")
    assert lines == ["bare", "WARNING:root:logged", "made"]


def test_errors_that_nobody_reads_end_nothing(unread: int) -> None:
    status, output, _ = job(PRINTS, errors=unread)
    assert status == STATUS
    assert output.split()[1:] == ["told", "child"]


def test_neither_is_read(unread: int) -> None:
    assert job(PRINTS, output=unread, errors=unread)[0] == STATUS


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_were_closed_are_not_given_to_files(closed: str) -> None:
    opens = "    import os; assert os.open('/dev/null', os.O_RDONLY) > 2\n"
    assert job(opens + PRINTS, shell=closed)[0] == STATUS


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_log_on_a_full_disk_ends_nothing() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    assert job(PRINTS.replace(", check=True", ""), output=full)[0] == STATUS


def test_what_is_read_arrives_whole() -> None:
    status, output, errors = job('print("caf\\u00e9 \\udc80"); print("a", file=sys.stderr)')
    assert (status, errors) == (STATUS, "a\n")
    assert output in ("café \\udc80\n", "caf\\xe9 \\udc80\n")
