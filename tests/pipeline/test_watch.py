"""A job that stands still says so, and how its cluster is."""

import threading
import time

from pipeline.cluster import ClusterSpec, size_pool
from pipeline.watch import describe_cluster, watching


def wait_for(count: int, warnings: list[str], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while len(warnings) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(warnings) >= count, warnings


def test_silence_is_told_again_after_twice_as_long() -> None:
    warnings: list[str] = []
    times: list[float] = []

    def warn(message: str) -> None:
        warnings.append(message)
        times.append(time.monotonic())

    started = time.monotonic()
    with watching(warn, lambda: "the cluster has 1 node alive", silence_s=0.3) as watch:
        wait_for(3, warnings)
        said_s = [moment - started for moment in times]
        assert 0.3 <= said_s[0] < 0.6
        assert 0.6 <= said_s[1] < 1.2
        assert 1.2 <= said_s[2] < 2.4
        assert warnings[0] == (
            "no cover has finished for 1 s; the cluster has 1 node alive; "
            "Ctrl-C stops cleanly, what is finished is kept"
        )
        count = len(warnings)
        watch.heard()
        wait_for(count + 1, warnings, 0.6)  # counts from the start again
    count = len(warnings)
    time.sleep(0.8)
    assert len(warnings) == count


def test_a_job_that_goes_on_is_left_in_peace() -> None:
    warnings: list[str] = []
    with watching(warnings.append, lambda: "", silence_s=0.5) as watch:
        for _ in range(12):
            time.sleep(0.1)
            watch.heard()
    assert not warnings


def test_a_cluster_that_fails_or_hangs_does_not_silence_the_warning(monkeypatch) -> None:
    monkeypatch.setattr("pipeline.watch.ANSWER_S", 0.2)
    warnings: list[str] = []

    def broken() -> str:
        raise ConnectionError("no head")

    with watching(warnings.append, broken, silence_s=0.1):
        wait_for(1, warnings)
    assert "the cluster does not answer (ConnectionError: no head)" in warnings[0]

    hanging = threading.Event()
    warnings.clear()
    with watching(warnings.append, lambda: str(hanging.wait(30)), silence_s=0.1):
        wait_for(1, warnings)
    hanging.set()
    assert "; the cluster does not answer; Ctrl-C" in warnings[0]


def test_the_cluster_in_words(ray_cluster: None) -> None:
    pool = size_pool(ClusterSpec(workers=1, gpus_per_worker=0))
    said = describe_cluster(pool)
    assert said.startswith("the cluster has 1 node alive, ")
    assert said.endswith(" of 4 CPUs free")
