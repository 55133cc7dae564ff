"""What the machine is asked."""

import pytest
import torch

from pipeline.benchmark.machine import CLEAR, describe, measure_peaks, peak_memory

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
