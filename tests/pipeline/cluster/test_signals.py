"""Signals end a job with one word and the status that names them, whoever sends them and however often."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from jobs.exit_status import exit_on_error
from pipeline.cluster.shutdown import StopFlag, stop_signals
from pipeline.cluster.signals import ImmediateStop, block_stop_signals, handle_stop_signals, raise_on_stop_signals
from tests.miniature import BASE

ROOT = Path(__file__).parents[3]
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
from pipeline.cluster.signals import raise_on_stop_signals
with raise_on_stop_signals() as status_of:
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt as stopped:
        print("interrupted", flush=True)
        sys.exit(status_of(stopped))
"""


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """In the background of a shell SIGINT is ignored, under ``nohup`` SIGHUP, and processes inherit it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, earlier in before.items():
        signal.signal(number, earlier)


def send(number: signal.Signals, wait_s: float = 0.05) -> None:
    os.kill(os.getpid(), number)
    time.sleep(wait_s)


@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_each_signal_has_its_status(number: str, status: int) -> None:
    with raise_on_stop_signals() as status_of:
        with pytest.raises(KeyboardInterrupt) as stopped:
            send(signal.Signals[number])
        assert status_of(stopped.value) == status


@pytest.mark.usefixtures("ray_cluster")
def test_each_signal_has_its_status_while_ray_waits() -> None:
    """Ray replaces the exception of a signal handler by a plain KeyboardInterrupt."""
    flag = StopFlag()

    def status(number: signal.Signals) -> object:
        with pytest.raises(SystemExit) as left, exit_on_error():
            wait_in_ray(number)
        return left.value.code

    def wait_in_ray(number: signal.Signals) -> None:
        threading.Timer(0.2, os.kill, [os.getpid(), number]).start()
        ray.get(flag.actor.wait.remote(), timeout=30)

    def status_at(number: signal.Signals, on_first: Callable[[], bool]) -> object:
        with pytest.raises(SystemExit) as left, exit_on_error(), stop_signals(on_first):
            wait_in_ray(number)
        return left.value.code

    def second() -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return False

    assert status(signal.SIGTERM) == 143
    assert status_at(signal.SIGTERM, lambda: True) == 143
    assert status_at(signal.SIGHUP, lambda: True) == 129
    assert status_at(signal.SIGTERM, second) == 143


def test_a_signal_that_is_sent_twice_at_once_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cluster.signals.REPEAT_S", 60.0)
    got: list[int] = []
    with handle_stop_signals(got.append):
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):  # timeout, and a closed terminal
            send(number)
        assert got == [signal.SIGTERM]
        send(signal.SIGINT)  # pressed by hand
        send(signal.SIGINT)
    assert got == [signal.SIGTERM, signal.SIGINT, signal.SIGINT]


def test_a_later_signal_is_another_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cluster.signals.REPEAT_S", 0.01)
    with stop_signals(lambda: False) as request:
        send(signal.SIGTERM)
        assert request.signal == signal.SIGTERM
        with pytest.raises(ImmediateStop) as stopped:
            send(signal.SIGHUP)
    assert stopped.value.signal == signal.SIGTERM


def test_where_there_is_nothing_to_wait_for_the_first_signal_ends_it() -> None:
    def work() -> None:
        send(signal.SIGHUP)
        for _ in range(200):  # a signal just before a sleep does not end that one
            time.sleep(0.05)

    with stop_signals(lambda: True), pytest.raises(ImmediateStop) as stopped:
        work()
    assert stopped.value.signal == signal.SIGHUP


@pytest.mark.usefixtures("ray_cluster")
def test_an_error_of_another_thread_ends_the_block_whatever_it_waits_for() -> None:
    def work() -> None:
        threading.Timer(0.1, request.end, [ValueError("lost")]).start()
        ray.get(flag.actor.wait.remote(), timeout=30)

    flag = StopFlag()
    with pytest.raises(ValueError, match="lost"), stop_signals(lambda: False) as request:
        work()
    time.sleep(0.1)  # nothing follows


def test_an_answer_after_the_end_of_the_block_stops_nobody_else() -> None:
    ended, answered = threading.Event(), threading.Event()

    def late() -> bool:
        ended.wait(30)
        answered.set()
        return True

    with raise_on_stop_signals():
        with stop_signals(late):
            send(signal.SIGTERM)
        ended.set()
        assert answered.wait(30)
        time.sleep(0.2)


def test_a_stop_request_that_cannot_be_passed_on_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pipeline.cluster.signals.REPEAT_S", 0.01)

    def broken() -> bool:
        raise OSError("the storage is away")

    with stop_signals(broken) as request:
        send(signal.SIGTERM)
        assert request.signal == signal.SIGTERM
        with pytest.raises(ImmediateStop):
            send(signal.SIGTERM)
    assert "the storage is away" in caplog.text


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raise_on_stop_signals():
            send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_processes_started_meanwhile_do_not_get_them() -> None:
    with block_stop_signals():
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
def test_a_job_that_is_still_importing(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "hydra.py").write_text("import time\ntime.sleep(60)\n")  # its imports do not end before the signal
    path = os.pathsep.join((str(tmp_path), ENVIRONMENT.get("PYTHONPATH", "")))
    arguments = ["-m", "jobs.restyle", "manifest=m.csv", "output=out", f"model={BASE}"]
    job = subprocess.Popen(
        [sys.executable, *arguments],
        env=ENVIRONMENT | {"PYTHONPATH": path},
        stderr=subprocess.PIPE,
    )
    mask = 0
    while not mask >> signal.SIGHUP - 1 & 1:  # until it catches SIGHUP, which Python itself does not
        mask = int(Path(f"/proc/{job.pid}/status").read_text().partition("SigCgt:")[2].split()[0], 16)
    job.send_signal(number)
    assert job.communicate(timeout=60)[1] == b"stopped\n"
    assert job.returncode == 128 + number
