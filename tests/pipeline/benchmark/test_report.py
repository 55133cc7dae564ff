"""What is printed of known figures, and what is left in files where a run goes on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.benchmark.config import parse_request
from pipeline.benchmark.machine import Machine, Peaks
from pipeline.benchmark.output_diff import Agreement
from pipeline.benchmark.report import markdown, write
from pipeline.benchmark.results import CaseResult, PartRow, PeerResult, Report
from pipeline.benchmark.timing import TimeSample, medians, ratios

OURS = [TimeSample(wall=wall, cpu=2 * wall) for wall in (1.0, 2.0, 4.0)]
PEER = [TimeSample(wall=wall, cpu=2 * wall) for wall in (3.0, 4.0, 16.0)]
CASE = CaseResult(
    case="base",
    audio_s=40.0,
    ours_s=medians(OURS),
    peers=[
        PeerResult("default", [Agreement("latents", 1e-4, 2.5e-6)], ratios(OURS, PEER), first_s=9.0),
        PeerResult("tuned", [], [], None, "out of memory"),
    ],
    parts=[PartRow("DiT", 500.0, 750.0, 0.5, roofline_s=0.5, seconds={"ours": 2.0, "default": 5.0})],
    memory_bytes={"ours": 1e9, "default": None},
    load=(0.5, 1.5),
)
REPORT = Report(
    request=parse_request({"workload": "single_base"}),
    date="2026-01-01 00:00",
    device="cpu",
    dtype="float32",
    machine=Machine("a processor", 2, 1, None, {"torch": "2"}, None),
    peaks=Peaks(250e9, 10e9),
    notes={},
    planned=2,
    cases=[CASE],
)


def cells(text: str, *start: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [row for row in rows if row[: len(start)] == list(start)]


def test_every_cell_is_what_was_measured() -> None:
    text = markdown(REPORT)
    assert cells(text, "base", "default", "latents") == [["base", "default", "latents", "2.5e-06", "0.0001", ""]]
    ends = ["9", "0.5 / 1.5"]
    assert cells(text, "base", "default", "wall") == [
        ["base", "default", "wall", "2", "4", "3.00x", "2.00x", "4.00x", "20", "10", *ends]
    ]
    assert cells(text, "base", "default", "CPU time") == [
        ["base", "default", "CPU time", "4", "8", "3.00x", "2.00x", "4.00x", "10", "5", *ends]
    ]
    assert cells(text, "DiT") == [["DiT", "500", "750", "0.5", "2", "25%", "5", "10%", "2.50x"]]
    assert "250 GFLOP/s in a matrix product, 10 GB/s in a copy" in text
    assert "By part, base, one run of each side, seconds of all threads:" in text
    assert "Unfinished: 1 of 2 cases." in text


def test_a_peer_without_memory_has_a_row_beside_our_time() -> None:
    empty = [""] * 3
    assert cells(markdown(REPORT), "base", "tuned") == [
        ["base", "tuned", clock, ours, "out of memory", *empty, rate, "", "", "0.5 / 1.5"]
        for clock, ours, rate in (("wall", "2", "20"), ("CPU time", "4", "10"))
    ]


def test_a_report_grows_in_its_place(tmp_path: Path) -> None:
    file = tmp_path / "new" / "found.md"
    finished = replace(REPORT, cases=[CASE, replace(CASE, case="other")])
    write(REPORT, file, None)
    first = write(REPORT, file, None)
    write(finished, file, first)
    assert file.read_text() == markdown(REPORT) + "\n" + markdown(finished) + "\n"
    lines = [json.loads(line) for line in file.with_suffix(".jsonl").read_text().splitlines()]
    assert [len(line["cases"]) for line in lines] == [1, 2]


@pytest.mark.parametrize("suffix", [".md", ".jsonl"])
def test_what_others_appended_meanwhile_is_kept(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / "found.md"
    before = write(REPORT, file, None)
    with file.with_suffix(suffix).open("a") as other:
        other.write("of another run\n")
    write(replace(REPORT, cases=[CASE, CASE]), file, before)
    assert file.with_suffix(suffix).read_text().count("of another run\n") == 1
    assert file.with_suffix(".jsonl").read_text().count('"case": "base"') == (3 if suffix == ".jsonl" else 2)
