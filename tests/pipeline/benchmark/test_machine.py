"""What the machine is asked."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from acestep.errors import RequestError
from pipeline.benchmark import machine as machines
from pipeline.benchmark.machine import CLEAR, describe, measure_peaks, peak_memory, use_device

CPU = torch.device("cpu")


@pytest.mark.skipif(not CLEAR.exists(), reason="only Linux tells a process's peak")
def test_peak_memory_is_what_was_held_at_once() -> None:
    torch.ones(50_000_000).sum()  # 200 MB that are gone again must not count
    with peak_memory(CPU) as peak:
        for _ in range(3):
            torch.ones(25_000_000).sum()
    assert peak["bytes"] == pytest.approx(100e6, rel=0.1)


def test_peaks_are_of_one_thread_and_the_machine_is_described() -> None:
    peaks = measure_peaks(CPU, torch.float32)
    assert 1e9 < peaks.flops < 1e13
    assert 1e8 < peaks.bytes < 1e12
    machine = describe(CPU)
    assert machine.gpu is None
    assert machine.versions["torch"] == torch.__version__.partition("+")[0]
    assert machine.threads == torch.get_num_threads()


def test_peaks_are_what_ran_over_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def take_two_seconds(call: Callable[[], object], times: int, device: torch.device) -> float:
        with FlopCounterMode(display=False) as counter:
            call()
        counted.append(counter.get_total_flops())
        return 2.0

    monkeypatch.setattr(machines, "_best", take_two_seconds)
    peaks = measure_peaks(CPU, torch.float32)
    assert peaks.flops == counted[0] / 2
    assert peaks.bytes == 2 * 4 * 2**24 / 2  # read and written, four bytes each


@pytest.mark.parametrize("name", ["meta", "mps", "xpu:1"])
def test_a_device_without_a_clock_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match=f"device '{name}' cannot be timed here; use 'cpu', 'cuda'"):
        use_device(name)


def test_a_gpu_becomes_the_current_one_where_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert use_device("cuda:1") == torch.device("cuda:1")
    assert chosen == [torch.device("cuda:1")]
    with pytest.raises(RequestError, match="device 'cuda:2' is not there; the last of 2 is 'cuda:1'"):
        use_device("cuda:2")


def test_a_commit_is_told_of_a_tracked_copy_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=n", "-c", "user.email=e@x")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    copy = tmp_path / "installed" / "machine.py"
    copy.parent.mkdir()
    copy.write_text("")
    git("init")
    git("commit", "--allow-empty", "-m", "other")
    monkeypatch.setattr(machines, "__file__", str(copy))
    assert machines._commit() is None
    git("add", ".")
    git("commit", "-m", "this")
    assert machines._commit() is not None
