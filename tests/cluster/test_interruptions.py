"""A job that is interrupted ten times, at random, in every way there is, ends as if nobody had touched it."""

import os
import platform
import random
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.cluster.launches import ROOT, SEEDS, Kill, Launches, explain, orphans, write_catalogue

TRACKS, TIMES = 20, 10
SIGNALS = (
    (signal.SIGINT,),
    (signal.SIGKILL,),
    (signal.SIGINT, signal.SIGINT),
    (signal.SIGTERM,),
    (signal.SIGHUP,),
)
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGKILL: -9}
LAUNCH_S = 10.0
ENDS_S, GONE_S, AGAIN_S = 60.0, 15.0, 60.0
# Ray's agents, which hold no model, go on asking for a dead driver's cluster for a minute.
AGENTS_GONE_S = 90.0


@pytest.mark.cluster
def test_a_folder_in_use_and_a_stop_that_reaches_everybody(tmp_path: Path) -> None:
    """A second launch is refused, and does not disturb the first; systemd's SIGTERM, to each process of the first,
    costs no cover that is under way."""
    here = ("cluster=local", "cluster.cpus=2", "cluster.gpus=0", "cluster.workers=2")
    launches = Launches(tmp_path / "job", write_catalogue(tmp_path, 6), os.environ | {"PACE_S": "1.5"}, *here)
    job = launches.start()
    launches.until(job, lambda: any(launches.output.glob(".*.lease")))
    second = subprocess.run(
        launches.command, cwd=ROOT, env=launches.environment, capture_output=True, text=True, check=False
    )
    assert second.returncode == 2
    assert f"is in use by process {job.pid} on {platform.node()} since 20" in second.stderr
    assert "tests.cluster.driver" in second.stderr

    launches.until(job, lambda: bool(launches.busy()))
    started = psutil.Process(job.pid).children(recursive=True)
    assert {"raylet", "gcs_server"} <= {process.name() for process in started}
    assert not [process for process in started if os.getpgid(process.pid) == job.pid]
    for process in (psutil.Process(job.pid), *started):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
    os.killpg(job.pid, signal.SIGTERM)  # and once more, as `timeout` does
    assert job.wait(ENDS_S) == 143, launches.said.read_text()[-5000:]
    gone(job.pid, GONE_S, but="Agent")
    generations = launches.generations()
    assert all(one.left < float("inf") for one in generations)
    assert len(generations) < 6 * SEEDS
    assert sorted(launches.kept()) == sorted(one.item_id for one in generations)
    assert f"stopped: {len(generations)} of {6 * SEEDS} covers are done" in launches.said.read_text()
    assert not list(launches.output.glob(".*"))


@pytest.mark.cluster
@pytest.mark.slow
def test_interrupted_ten_times_it_ends_as_if_undisturbed(tmp_path: Path) -> None:
    manifest, chance = write_catalogue(tmp_path, TRACKS), random.Random(4)
    here = ("cluster=local", "cluster.cpus=2", "cluster.gpus=0", "cluster.workers=2")
    plain = Launches(tmp_path / "plain", manifest, os.environ, *here)
    print(f"\n{TRACKS * SEEDS} items, undisturbed in {plain.run():.0f} s")
    expected = plain.audio()

    shaken = Launches(tmp_path / "shaken", manifest, os.environ | {"PACE_S": "0.2"}, *here)
    disturbed = [disturb(shaken, k, chance) for k in range(TIMES)]
    print(f"the last launch took {shaken.run():.0f} s")
    generations = shaken.generations()
    again_s = shaken.run(AGAIN_S)
    assert shaken.audio() == expected
    assert shaken.generations() == generations
    # A polite stop repeats nothing, so it may not serve as an explanation.
    costs = explain(generations, [kill for kill, _ in disturbed if kill.what.split()[1:] != ["SIGINT"]
                                  and "SIGTERM" not in kill.what and "SIGHUP" not in kill.what])  # fmt: skip
    counts = Counter(Counter(one.item_id for one in generations).values())
    print("generated:", ", ".join(f"{items} items {times}x" for times, items in sorted(counts.items())))
    print("repeated because of:", dict(costs), f"; one more launch, which generated nothing: {again_s:.1f} s")
    for _, session in disturbed:
        gone(session, AGENTS_GONE_S)


def disturb(shaken: Launches, k: int, chance: random.Random) -> tuple[Kill, int]:
    """A launch that is interrupted; nothing of it is left running."""
    numbers, before = SIGNALS[k % len(SIGNALS)], len(shaken.generations())
    job = shaken.start()
    starting = chance.random() < 0.25
    if starting:
        shaken.until(job, lambda: catches(job, signal.SIGHUP))  # imported; Python itself does not catch it
        time.sleep(chance.uniform(0.0, LAUNCH_S))
    else:
        aim = before + chance.randint(1, 6)
        shaken.until(job, lambda: len(shaken.generations()) >= aim)
        time.sleep(chance.uniform(0.0, 0.3))
    assert job.poll() is None, "it ended before it was interrupted"
    name = " ".join([str(k), *(number.name for number in numbers)])
    at, rows = time.time(), len(shaken.kept())
    interrupt(job, numbers)
    status = job.wait(ENDS_S)
    ended_s = time.time() - at
    assert status == STATUS[numbers[0]], shaken.said.read_text()[-5000:]
    gone_s = gone(job.pid, GONE_S, but="Agent")
    workers = frozenset(one.pid for one in shaken.generations()[before:])
    print(f"  {name} while {'starting' if starting else 'working'}, {shaken.done()} items done: status "
          f" {status} after {ended_s:.1f} s, and its workers gone {gone_s:.1f} s later")  # fmt: skip
    return Kill(name, at, workers, rows), job.pid


def catches(job: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    mask = Path(f"/proc/{job.pid}/status").read_text().partition("SigCgt:")[2].split()[0]
    return bool(int(mask, 16) >> number - 1 & 1)


def interrupt(job: subprocess.Popen[bytes], numbers: tuple[signal.Signals, ...]) -> None:
    """Ctrl-C and a closed terminal go to everyone in it, the others to the driver alone."""
    for number in numbers:
        if number in (signal.SIGINT, signal.SIGHUP):
            os.killpg(job.pid, number)
        else:
            job.send_signal(number)
        time.sleep(0.5 if len(numbers) > 1 else 0.0)


def gone(session: int, limit_s: float, but: str = "nothing") -> float:
    """How long it takes until no process of a session is left, but some that need not be waited for."""
    started = time.monotonic()
    while left := [name for name in orphans(session) if but not in name]:
        assert time.monotonic() - started < limit_s, left
        time.sleep(0.2)
    return time.monotonic() - started
