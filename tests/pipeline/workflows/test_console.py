"""What a person reads: lines that grow rare, a bar, and how it ended."""

import io
from dataclasses import replace
from itertools import pairwise

import pytest
from rich.console import Console

from pipeline.catalogue.grid import make_settings
from pipeline.cluster.pool import Pool
from pipeline.planning.items import ModelFacts
from pipeline.planning.plan import Plan
from pipeline.results.progress import Progress
from pipeline.results.queries import SUMMARY_COLUMNS
from pipeline.results.writer import as_table
from pipeline.workflows.console import ConsoleReporter
from pipeline.workflows.specs import RestyleJob
from pipeline.workflows.summary import summarize

JOB = RestyleJob("tracks.csv", "out", {})
POOL = Pool(workers=1, most=1, gpus_per_worker=0, threads=2, cluster="local, 1 node")
SETTINGS = make_settings({"seed": 1}, {})


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def row(k: float, **changes: object) -> dict:
    return {
        "item_id": f"i{k}",
        "track_id": f"t{k}",
        "setting_name": "default",
        "status": "ok",
        "source_duration_s": 10.0,
        "duration_s": 10.0,
        "denoise_s": float(k),
        "write_s": 0.5,
    } | changes


def reporter(terminal: bool, clock: Clock) -> tuple[ConsoleReporter, io.StringIO]:
    said = io.StringIO()
    console = Console(file=said, force_terminal=terminal, width=140, color_system=None)
    found = ConsoleReporter(console, clock)
    plan = Plan(tracks=1000, items=1000)
    found.planned(JOB, plan, SETTINGS, ModelFacts("turbo", "f", True, "float32"), POOL)
    return found, said


def test_a_log_says_how_far_it_is_ever_more_rarely() -> None:
    clock = Clock()
    found, said = reporter(False, clock)
    progress = Progress(1000, 1000, 10_000.0, clock)
    moments = []
    for k in range(1000):
        clock.time += 1
        progress.add(as_table([row(k, denoise_s=0.5)]))
        before = said.tell()
        found.advanced(progress)
        if said.tell() > before:
            moments.append(k + 1)
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert moments[0] == 10
    assert gaps == sorted(gaps)
    assert gaps[-1] == 60
    assert len(moments) < 25
    lines = said.getvalue().splitlines()
    assert "10 of 1000 covers, 60.0 tracks/min, 10.0 x real time, 17 min to go" in lines


def test_a_terminal_shows_a_bar_with_failures_and_time_to_go() -> None:
    clock = Clock()
    found, said = reporter(True, clock)
    progress = Progress(1000, 1000, 10_000.0, clock)
    clock.time += 60
    progress.add(
        as_table(
            [
                row(59.5),
                row(2, denoise_s=0, write_s=0, status="failed", error_kind="out_of_memory", duration_s=None),
            ]
        )
    )
    found.advanced(progress)
    found.stop()
    assert "2/1000" in said.getvalue()
    assert "2.0 tracks/min, 0.2 x real time, 1 failed (out_of_memory 1), 8 h 19 min to go" in said.getvalue()


@pytest.mark.parametrize("made", [5, 30])
def test_the_end_tells_kinds_and_the_slowest(made: int) -> None:
    clock = Clock()
    found, said = reporter(False, clock)
    bad = {"status": "failed", "duration_s": None, "error_message": "why"}
    rows = [row(k) for k in range(made)]
    rows += [row(100 + k, error_kind="unreadable_audio", **bad) for k in range(25)]
    rows += [row(200, error_kind="too_long", **(bad | {"status": "rejected"}))]
    summary = summarize(as_table(rows).select(SUMMARY_COLUMNS), 10, 60.0)
    assert summary.by_kind == {"unreadable_audio": 25, "too_long": 1}
    assert (summary.ok, summary.failed, summary.rejected) == (made, 25, 1)
    last = made - 1
    assert summary.slowest["track_id"].to_pylist() == [f"t{k}" for k in range(last, last - 5, -1)]
    assert summary.slowest["work_s"].to_pylist() == [k + 0.5 for k in range(last, last - 5, -1)]
    found.closed(JOB, replace(summary, tracking={"ui": "open it", "compare": "there"}))
    lines = said.getvalue().splitlines()
    assert "problems: unreadable_audio 25, too_long 1" in lines
    assert "  failed t100 default: unreadable_audio: why" in lines
    assert "  ... and 6 more" in lines
    slowest = [line for line in lines if "s of work for" in line]
    assert slowest[:1] == (["  t29 default: 29.5 s of work for 10.0 s of audio"] if made == 30 else [])
    assert len(slowest) == (5 if made == 30 else 0)


def test_nothing_made_is_no_slowest() -> None:
    summary = summarize(as_table([]).select(SUMMARY_COLUMNS), 0, 0.0)
    assert summary.complete
    assert len(summary.slowest) == 0
    assert summary.by_kind == {}
