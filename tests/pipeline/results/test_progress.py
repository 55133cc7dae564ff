"""How far, how fast, how long to go: by work, with a clock that the test turns."""

from collections.abc import Sequence

import pytest

from acestep.constants import MIN_WORK_S
from pipeline.results.progress import RECENT_S, Progress, format_duration, in_words
from pipeline.results.writer import as_table


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def finished(track: str, seconds: float | None, kinds: Sequence[str | None]) -> list[dict]:
    """A row for each kind of error, or for a cover that is ok (None)."""
    return [
        {
            "item_id": f"{track} {k}",
            "track_id": track,
            "status": "failed" if kind else "ok",
            "error_kind": kind,
            "source_duration_s": seconds,
            "duration_s": None if kind else seconds,
        }
        for k, kind in enumerate(kinds)
    ]


def test_time_to_go_is_told_by_work_since_the_longest_tracks_come_first() -> None:
    clock = Clock()
    # One track of 500 s and fifty of 10 s: a fiftieth of the covers is half of the work.
    progress = Progress(items=51, tracks=51, work_s=1000.0, now=clock)
    assert progress.left_s() is None
    clock.time += 100
    progress.add(as_table(finished("long", 500.0, [None])))
    assert progress.left_s() == pytest.approx(100)
    assert progress.overall().x_real_time == pytest.approx(5)
    assert progress.overall().tracks_per_minute == pytest.approx(0.6)
    for k in range(50):
        clock.time += 2
        progress.add(as_table(finished(f"t{k}", 10.0, [None])))
    assert progress.left_s() == 0
    assert progress.overall().x_real_time == pytest.approx(5)


def test_failures_are_counted_by_kind_and_make_no_audio() -> None:
    clock = Clock()
    progress = Progress(items=40, tracks=20, work_s=400.0, now=clock)
    clock.time += 30
    progress.add(as_table(finished("a", 10.0, [None, "out_of_memory", None])))
    progress.add(as_table(finished("b", None, ["unreadable_audio", "unreadable_audio"])))
    assert (progress.done, progress.failed) == (5, 3)
    assert progress.total.audio_s == 20
    assert progress.total.work_s == pytest.approx(30 + 2 * MIN_WORK_S)
    assert in_words(progress) == (
        "5 of 40 covers, 5.0 tracks/min, 0.7 x real time, 3 failed (unreadable_audio 2, out_of_memory 1), "
        "5 min to go"
    )


def test_loading_a_model_is_not_taken_for_slowness() -> None:
    clock = Clock()
    progress = Progress(items=11, tracks=11, work_s=110.0, now=clock)
    clock.time += 300
    rows = finished("a", 10.0, [None])
    progress.add(as_table([rows[0] | {"denoise_s": 4.0, "write_s": 1.0}]))
    assert progress.left_s() == pytest.approx(50)
    assert progress.recent().x_real_time == pytest.approx(2)
    assert progress.overall().x_real_time == pytest.approx(10 / 300)


def test_what_headers_did_not_tell_is_still_time_to_go() -> None:
    clock = Clock()
    progress = Progress(items=3, tracks=3, work_s=3 * MIN_WORK_S, now=clock)
    clock.time += 60
    progress.add(as_table(finished("headerless", 120.0, [None])))
    assert progress.left_s() == pytest.approx(2 * MIN_WORK_S / 2)


def test_recent_rates_forget_and_a_slow_track_is_no_gap() -> None:
    clock = Clock()
    progress = Progress(items=1000, tracks=1000, work_s=10_000.0, now=clock)
    for k in range(200):  # two hundred fast ones, then slow ones
        clock.time += 1
        progress.add(as_table(finished(f"fast{k}", 10.0, [None])))
    for k in range(30):
        clock.time += 100
        progress.add(as_table(finished(f"slow{k}", 10.0, [None])))
    assert progress.recent().tracks_per_minute == pytest.approx(0.6)  # more tracks than fell into ten minutes
    assert progress.overall().tracks_per_minute == pytest.approx(230 / 3200 * 60)
    assert progress.left_s() == pytest.approx((10_000 - 2300) / 0.1)
    for k in range(700):
        clock.time += 1
        progress.add(as_table(finished(f"again{k}", 10.0, [None])))
    assert progress.recent().x_real_time == pytest.approx(10)
    assert len(progress.samples) <= RECENT_S + 2


def test_a_fast_job_keeps_few_samples() -> None:
    clock = Clock()
    progress = Progress(items=2000, tracks=2000, work_s=9600.0, now=clock)
    for k in range(2000):
        clock.time += 0.05
        progress.add(as_table(finished(f"t{k}", 1.0, [None])))
    assert len(progress.samples) <= 102
    assert progress.recent().tracks_per_minute == pytest.approx(1200, rel=1e-3)
    assert progress.left_s() == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 s"),
        (39.2, "40 s"),
        (90.0, "90 s"),
        (91.0, "2 min"),
        (3541.0, "1 h 0 min"),
        (4300.0, "1 h 12 min"),
        (47.9 * 3600, "47 h 54 min"),
        (76.5 * 3600, "3 d 4 h"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words
