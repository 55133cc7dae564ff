"""Signals end a job with one word and the status that names them, whoever sends them and however often."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.signals import StoppedNow, handling, raising, status_of, withheld
from pipeline.stopping import stop_signals

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
# A terminal that a job runs in, and its end.
TERMINAL = """
import os, pty, sys
job, terminal = pty.fork()
if not job:
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
while b"ready" not in os.read(terminal, 100): pass
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(job, 0)[1]))
"""
JOB = """
import sys, time
from pipeline.signals import raising, status_of
with raising():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt as stopped:
        print("interrupted", flush=True)
        sys.exit(status_of(stopped))
"""


def send(number: signal.Signals, wait_s: float = 0.05) -> None:
    os.kill(os.getpid(), number)
    time.sleep(wait_s)


@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_each_signal_has_its_status(number: str, status: int) -> None:
    with pytest.raises(KeyboardInterrupt) as stopped, raising():
        send(signal.Signals[number])
    assert status_of(stopped.value) == status


def test_a_signal_that_is_sent_twice_at_once_is_one_wish() -> None:
    got: list[int] = []
    with handling(got.append):
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):  # timeout, and a closed terminal
            send(number)
        assert got == [signal.SIGTERM]
        send(signal.SIGINT)  # pressed by hand
        send(signal.SIGINT)
    assert got == [signal.SIGTERM, signal.SIGINT, signal.SIGINT]


def test_a_later_signal_is_another_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.signals.REPEAT_S", 0.01)
    with stop_signals(lambda: False) as request:
        send(signal.SIGTERM)
        assert request.signal == signal.SIGTERM
        with pytest.raises(StoppedNow) as stopped:
            send(signal.SIGHUP)
    assert status_of(stopped.value) == 143


def test_where_there_is_nothing_to_wait_for_the_first_signal_ends_it() -> None:
    with stop_signals(lambda: True), pytest.raises(StoppedNow) as stopped:
        send(signal.SIGHUP, 10)
    assert status_of(stopped.value) == 129


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raising():
            send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_processes_started_meanwhile_do_not_get_them() -> None:
    with withheld():
        sheltered = subprocess.Popen(["sleep", "60"])
    sheltered.terminate()
    time.sleep(0.2)
    assert sheltered.poll() is None
    sheltered.kill()
    assert sheltered.wait() == -signal.SIGKILL


def test_a_closed_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", TERMINAL, JOB], env=ENVIRONMENT, timeout=60, check=False)
    assert done.returncode == 128 + signal.SIGHUP


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_job_that_is_still_importing(number: signal.Signals) -> None:
    job = subprocess.Popen(
        [sys.executable, "-m", "jobs.restyle", "manifest=m.csv", "output=out", "model=demo"],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
    )
    mask = 0
    while not mask >> signal.SIGHUP - 1 & 1:  # until it catches SIGHUP, which Python itself does not
        mask = int(Path(f"/proc/{job.pid}/status").read_text().partition("SigCgt:")[2].split()[0], 16)
    job.send_signal(number)
    assert job.communicate(timeout=60)[1] == b"stopped\n"
    assert job.returncode == 128 + number
