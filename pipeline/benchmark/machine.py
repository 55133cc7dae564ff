"""The machine and its measured limits."""

import ctypes
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from acestep.errors import RequestError
from acestep.handler import pick_device
from pipeline.benchmark.timing import measure

PACKAGES = ("torch", "diffusers", "transformers")
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # resets VmHWM to the current resident memory


@dataclass(frozen=True)
class Peaks:
    """Measured limits: operations of a matrix product and bytes of a copy (read and written), per second.

    On a CPU per second of thread time, which excludes other processes and idle threads.
    """

    flops: float
    bytes: float


@dataclass(frozen=True)
class Machine:
    """The machine of a benchmark."""

    processor: str
    cores: int
    threads: int
    gpu: str | None
    versions: dict[str, str]
    commit: str | None


def describe(device: torch.device) -> Machine:
    """This machine."""
    return Machine(
        processor=_processor(),
        cores=cores(),
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        versions={name: version(name) for name in PACKAGES},
        commit=_commit(),
    )


def use_device(name: str | None) -> torch.device:
    """Select the device to measure on as torch's current one, where CUDA events are recorded.

    Raises:
        RequestError: the device does not exist, or its kind cannot be timed.
    """
    device = pick_device(name)
    if device.type not in ("cpu", "cuda"):
        remedy = "use 'cpu', 'cuda' or 'cuda:<index>'"
        raise RequestError("invalid_value", "cannot be timed here", remedy, "device", name)
    if device.type == "cuda" and device.index is not None:
        count = torch.cuda.device_count()
        if device.index >= count:
            remedy = f"the last of {count} is 'cuda:{count - 1}'"
            raise RequestError("missing_folder", "is not there", remedy, "device", name)
        torch.cuda.set_device(device)
    return device


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> float:
    """Load average over the last minute; far above the threads in use means contention."""
    return os.getloadavg()[0]


def measure_peaks(device: torch.device, dtype: torch.dtype) -> Peaks:
    """The best of several matrix products and copies that are large enough to reach the limits."""
    gpu = device.type == "cuda"
    n, elements, times = (8192, 2**28, 20) if gpu else (2048, 2**24, 4)
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    source = torch.zeros(elements, device=device)
    target = torch.zeros_like(source)
    product, copy = _best(lambda: a @ b, times, device), _best(lambda: target.copy_(source), times, device)
    return Peaks(flops=2 * n**3 / product, bytes=2 * source.nbytes / copy)


def _best(call: Callable[[], object], times: int, device: torch.device) -> float:
    call()
    samples = [measure(call, device) for _ in range(times)]
    return min(sample.cpu if sample.device is None else sample.device for sample in samples)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float | None]]:
    """Sets ``bytes`` to the peak memory of the block above its beginning; None where unknown.

    On a GPU it is torch's allocated memory; on a CPU the process's resident memory, on Linux only.
    """
    found: dict[str, float | None] = {"bytes": None}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found["bytes"] = torch.cuda.max_memory_allocated(device) - before
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # memory that the heap keeps of earlier runs would hide this one's
    try:
        CLEAR.write_text(RESET_PEAK)
    except OSError:
        yield found
        return
    held = _resident("VmRSS")
    yield found
    found["bytes"] = max(_resident("VmHWM") - held, 0)


def _resident(key: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the checkout that tracks this file, or None."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    questions = (
        ("ls-files", "--error-unmatch", here.name),  # an installed copy may lie within some other checkout
        ("rev-parse", "--short", "HEAD"),
        ("status", "--porcelain", "-uno"),
    )
    try:
        _, head, changes = (
            subprocess.check_output([*git, *question], stderr=subprocess.DEVNULL, text=True).strip()
            for question in questions
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head} with changes" if changes else head


def now() -> str:
    """Date and time (UTC), to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime())
