"""Shared fixtures: the miniature model, short sources, one Ray cluster."""

import os

# Before torch is loaded: its threads must not spin while tests, Ray and workers share few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from acestep.handler import AceStepHandler
from tests import miniature

# Workers of pytest-xdist share the cores.
torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))


def tone(seconds: float, rate: int = 48_000, pitch_hz: float = 220.0) -> np.ndarray:
    """A decaying stereo arpeggio ``[n, 2]``: music enough to be encoded."""
    t = np.arange(int(seconds * rate)) / rate
    step = (t * 4).astype(int) % 4
    pitch = pitch_hz * 2 ** (np.array([0, 4, 7, 12])[step] / 12)
    left = 0.4 * np.sin(2 * np.pi * np.cumsum(pitch) / rate) * np.exp(-4 * (t * 4 % 1))
    return np.stack((left, 0.8 * np.roll(left, rate // 100)), axis=1).astype(np.float32)


def melody(seconds: float, seed: int = 0, octave: int = 0, rate: int = 48_000) -> np.ndarray:
    """A tune ``[n, 2]`` that does not repeat itself: half-second notes over slower ones, drawn from a scale.

    octave: how many higher all of it is.
    """
    t = np.arange(int(seconds * rate)) / rate
    rng = np.random.default_rng(seed)
    scale = np.array([0, 2, 4, 5, 7, 9, 11, 12])
    notes = [220 * 2 ** (scale[rng.integers(0, 8, int(seconds * k) + 1)] / 12) for k in (2, 0.5)]
    wave = np.zeros_like(t)
    for pitches, per_s, register in zip(notes, (2, 0.5), (1, 0), strict=True):
        pitch = 2.0 ** (register + octave) * pitches[(t * per_s).astype(int)]
        wave += 0.25 * np.sin(2 * np.pi * np.cumsum(pitch) / rate) * np.exp(-2 * (t * per_s % 1))
    return np.stack((wave, 0.8 * np.roll(wave, rate // 100)), axis=1).astype(np.float32)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where only tests of real clusters run, no file without one is imported."""
    if config.option.markexpr.startswith("cluster") and collection_path.match("test_*.py"):
        return "mark.cluster" not in collection_path.read_text() or None
    return None


@pytest.fixture(scope="session", autouse=True)
def _no_runs_in_the_working_directory() -> Iterator[None]:
    """MLflow's defaults are paths relative to the working directory: no test may leave its files there."""
    places = [Path(name).absolute() for name in ("mlartifacts", "mlruns", "mlflow.db")]
    before = {place for place in places if place.exists()}
    yield
    left = [str(place) for place in places if place.exists() and place not in before]
    assert not left, f"a test wrote to {', '.join(left)}"


@pytest.fixture(scope="session")
def base() -> AceStepHandler:
    """The miniature base model on the CPU."""
    return AceStepHandler.from_checkpoint(miniature.BASE, device="cpu")


@pytest.fixture(scope="session")
def turbo() -> AceStepHandler:
    """The miniature turbo model on the CPU."""
    return AceStepHandler.from_checkpoint(miniature.TURBO, device="cpu")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A six-second source track."""
    path = tmp_path / "country_song.wav"
    soundfile.write(path, tone(6.0), 48_000)
    return path


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray cluster for all tests that run jobs in this process."""
    import ray

    from pipeline.cluster.connection import connect
    from pipeline.cluster.spec import ClusterSpec

    connect(ClusterSpec(cpus=2, gpus=0))
    yield
    ray.shutdown()


@pytest.fixture
def local_pool() -> Iterator[None]:
    """No cluster: jobs make their covers in this process."""
    from tests import local_pool

    with local_pool.local_pool():
        yield
