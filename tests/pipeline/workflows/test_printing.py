"""Text arrives as it is, whatever the width of the output: no number is cut off and no name is rewritten."""

import re
from typing import Any, cast

import pytest
from rich.cells import cell_len

from pipeline.evaluation.comparison import compare
from pipeline.evaluation.objective import HALF_MOVED, Objective
from pipeline.planning.items import ModelFacts
from pipeline.planning.plan import Plan
from pipeline.report.findings import Findings
from pipeline.results.queries import SUMMARY_COLUMNS
from pipeline.results.writer import as_table
from pipeline.workflows.console import ConsoleReporter, warn_on
from pipeline.workflows.console_findings import print_findings
from pipeline.workflows.printing import plain_console, table_lines
from pipeline.workflows.summary import summarize
from tests.pipeline.evaluation.test_comparison import DISTANCE, covers, table
from tests.pipeline.workflows.test_console import JOB, POOL, SETTINGS, row


@pytest.mark.parametrize("columns", ["20", "80"])
def test_the_table_of_settings_keeps_its_numbers(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    rows = covers(8, 2, 2, lambda track, setting, seed: 0.5 + 0.2 * setting + 0.01 * track + 0.001 * seed)
    comparison = compare(table([row | {DISTANCE: HALF_MOVED} for row in rows]), Objective())
    print_findings(plain_console(), Findings(table([]), comparison, cast(Any, None), ("A sentence.",), {}))
    heading, names, *lines, sentence = capsys.readouterr().out.splitlines()
    assert (heading, sentence) == ("settings, best first; means over tracks", "A sentence.")
    assert names.split()[:2] == ["setting", "score"]
    assert [line.split()[0] for line in lines] == ["s0.10", "s0.00"]
    for line in lines:
        assert line.endswith("16 ok")
        assert len(re.findall(r"\d\.\d\d", line)) == 8  # name, score, its interval, four means
        assert "…" not in line
        assert len(line) <= 80


@pytest.mark.parametrize("columns", ["20", "80"])
def test_the_end_of_a_job_keeps_its_numbers(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    bad = {"status": "failed", "duration_s": None, "error_kind": "unreadable_audio", "error_message": "why"}
    rows = [*(row(k) for k in range(12)), row(100, track_id="日本 [red] :cat: " + 30 * "x", **bad)]
    summary = summarize(as_table(rows).select(SUMMARY_COLUMNS), 12_345, 60.0)
    ConsoleReporter(plain_console()).closed(JOB, summary)
    lines = capsys.readouterr().out.splitlines()
    assert "12 ok, 1 failed, 0 rejected, 12345 new; 120 s of audio in 60 s" in lines
    assert f"  failed 日本 [red] :cat: {30 * 'x'} default: unreadable_audio: why" in lines


def test_words_in_brackets_and_between_colons_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    text = "/data/[bold]a[/bold] :smile: \\[x] 'y' 1"
    plain_console().print(text)
    plain_console().print(text, style="red")
    warn_on(plain_console())(text)
    assert capsys.readouterr().out.splitlines() == [text, text, f"warning: {text}"]


def test_columns_stand_under_each_other() -> None:
    lines = [*table_lines([["name", "n", "said"], ["日本", "12.5", "two words"], ["x", "3", ""]])]
    assert lines == ["name     n  said", "日本  12.5  two words", "x        3"]
    assert {cell_len(line[: line.index(text)]) for line, text in zip(lines, ["said", "two"], strict=False)} == {12}


def test_settings_of_a_plan_are_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    model = ModelFacts("/models/[x]", "f00d", True, "float32")
    ConsoleReporter(plain_console()).planned(JOB, Plan(tracks=10, items=10), SETTINGS, model, POOL)
    lines = capsys.readouterr().out.splitlines()
    assert "model      /models/[x] (f00d, float32)" in lines
    assert "to do      10 covers of 10 tracks" in lines
