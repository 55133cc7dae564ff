"""Reads that hang: given up, few at once, and no hindrance to others."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.storage.read_timeout import MAX_HUNG, ReadTimeout, Tick, mount_of, reader_pool
from pipeline.storage.source_errors import ReadStoppedError, SourceTimeoutError

SHORT = ReadTimeout(timeout_s=1.0)


class Hanging:
    """A read that returns when it is let go."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.running = 0

    def __call__(self, tick: Tick) -> str:
        self.running += 1
        self.over.wait(60)
        self.running -= 1
        return "late"


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    read = Hanging()
    yield read
    read.over.set()


def seconds(timeout: ReadTimeout, uri: str, read: Hanging) -> float:
    """How long a read that hangs keeps its caller."""
    began = time.monotonic()
    with pytest.raises(SourceTimeoutError):
        timeout.run(uri, read)
    return time.monotonic() - began


def test_what_a_read_returns_or_raises_is_passed_on() -> None:
    assert SHORT.run("a", lambda tick: 7) == 7
    with pytest.raises(FileNotFoundError):
        SHORT.run("a", lambda tick: os.stat("/absent"))


def test_a_slow_read_that_advances_is_not_given_up() -> None:
    def read(tick: Tick) -> str:
        for _ in range(8):
            time.sleep(0.2)
            tick()
        return "done"

    assert SHORT.run("a", read) == "done"


def test_reads_of_one_place_that_hang_are_few_and_others_go_on(hanging: Hanging) -> None:
    took = [seconds(SHORT, f"s3://dead/{k}.wav", hanging) for k in range(MAX_HUNG + 4)]
    assert all(1.0 <= one < 10 for one in took[:MAX_HUNG])
    assert all(one < 0.9 for one in took[MAX_HUNG:])
    assert hanging.running == MAX_HUNG
    assert SHORT.run("s3://other/a.wav", lambda tick: 7) == 7
    hanging.over.set()
    until = time.monotonic() + 10
    while hanging.running and time.monotonic() < until:
        time.sleep(0.01)
    assert SHORT.run("s3://dead/a.wav", lambda tick: 7) == 7


def test_a_read_that_nobody_waits_for_is_left_at_once(hanging: Hanging) -> None:
    began = time.monotonic()
    with pytest.raises(ReadStoppedError):
        ReadTimeout(600.0, stopped=lambda: time.monotonic() - began > 0.2).run("s3://b/a.wav", hanging)
    assert time.monotonic() - began < 10


def test_an_interrupt_does_not_wait_for_reads_that_hang(hanging: Hanging) -> None:
    began = time.monotonic()

    def interrupted() -> None:
        with reader_pool(4, ReadTimeout(600.0)) as (pool, timeout):
            for k in range(50):
                pool.submit(timeout.run, f"s3://c{k}/a.wav", hanging)
            while hanging.running < 4:
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - began < 10
    assert hanging.running <= 5


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.storage.read_timeout._mounts", lambda: frozenset({f"{tmp_path}/mnt"}))
    (tmp_path / "link").symlink_to(tmp_path / "mnt" / "music")
    (tmp_path / "relative").symlink_to("mnt/music")
    (tmp_path / "loop").symlink_to("loop")
    folder = str(tmp_path)
    for name, place in {
        "mnt/a/b.wav": f"{folder}/mnt",
        "link/b.wav": f"{folder}/mnt",
        "relative/b.wav": f"{folder}/mnt",
        "other/b.wav": f"{folder}/other",
        "loop/b.wav": f"{folder}/loop",
    }.items():
        assert mount_of(f"{folder}/{name}") == place
        assert mount_of(f"file://{folder}/{name}") == place
    assert mount_of("s3://bucket/a/b.wav?region=x") == "s3://bucket"
