"""The benchmark report in Markdown, and as a JSON line."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.benchmark.output_diff import Agreement
from pipeline.benchmark.results import OURS, CaseResult, Report

Written = tuple[range, range]  # bytes of the Markdown file and of the file of lines

CLOCKS = {"wall": "wall", "cpu": "CPU time", "device": "GPU events"}


def markdown(report: Report) -> str:
    """The report as one Markdown section."""
    request, machine, peaks = report.request, report.machine, report.peaks
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
    lines = [
        f"## {request.workload}, {request.size}, {report.device}, {report.dtype}: {report.date} UTC",
        "",
        f"{machine.gpu or machine.processor}; {machine.cores} cores, {machine.threads} threads; {versions}; "
        f"commit {machine.commit or 'unknown'}. Peaks measured{'' if machine.gpu else ', per thread'}: "
        f"{peaks.flops / 1e9:.0f} GFLOP/s in a matrix product, {peaks.bytes / 1e9:.0f} GB/s in a copy.",
        "",
    ]
    if len(report.cases) < report.planned:
        lines += [f"Unfinished: {len(report.cases)} of {report.planned} cases.", ""]
    for side, notes in report.notes.items():
        called = "Ours" if side == OURS else f"The {side} peer"
        lines += [f"{called}: {'; '.join(notes)}.", ""]
    lines += ["Both sides agree:", "", *_agreements(report.cases), ""]
    lines += [f"Seconds per case, median of {request.rounds} interleaved rounds:", "", *_ratios(report.cases), ""]
    lines += [
        "The peer's first run is its first of the case, on the wall, with all that it compiles for it. Load is",
        "the mean number of runnable processes over a minute, before and after the case.",
        "",
    ]
    for case in report.cases:
        if case.parts:
            clock = "seconds by the clock" if machine.gpu else "seconds of all threads"
            lines += [
                f"By part, {case.case}, one run of each side, {clock}:",
                "",
                *_parts(case),
                "",
                _memory(case),
                "",
            ]
    return "\n".join(lines)


def write(report: Report, file: Path, before: Written | None) -> Written:
    """Append the report to ``file``, and a line to the ``.jsonl`` beside it.

    Args:
        before: byte ranges of an earlier state of the same report, which is replaced.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    text, line = before or (None, None)
    return (
        _put(markdown(report) + "\n", file, text),
        _put(json.dumps(asdict(report)) + "\n", file.with_suffix(".jsonl"), line),
    )


def _put(text: str, file: Path, before: range | None) -> range:
    """Write at the end of ``file``, over ``before`` if that is still the end; returns the bytes written."""
    file.touch()
    with file.open("r+b") as out:
        size = out.seek(0, os.SEEK_END)
        start = before.start if before and before.stop == size else size
        out.seek(start)
        out.write(text.encode())
        out.truncate()
        return range(start, out.tell())


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; all but the first column are right-aligned."""
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (header, ruler, *rows)]


def _agreements(cases: Sequence[CaseResult]) -> list[str]:
    rows = [
        (case.case, peer.peer, one.output, *_apart(one), one.note)
        for case in cases
        for peer in case.peers
        for one in peer.agreements
    ]
    return table(("case", "peer", "output", "apart", "allowed", "note"), rows)


def _apart(one: Agreement) -> tuple[str, str]:
    if one.off is not None:
        return f"{one.off:.1e}", f"{one.allowed:g}"
    return f"{one.ours_db:.1f} dB above the error", f"peer {one.peer_db:.1f} dB"


def _ratios(cases: Sequence[CaseResult]) -> list[str]:
    rows: list[tuple[str, ...]] = []
    for case in cases:
        load = "{:.1f} / {:.1f}".format(*case.load)
        for peer in case.peers:
            first = "" if peer.first_s is None else f"{peer.first_s:.3g}"
            for ratio in peer.ratios:
                spread = f"{ratio.median:.2f}x", f"{ratio.least:.2f}x", f"{ratio.most:.2f}x"
                rates = (f"{case.audio_s / seconds:.3g}" for seconds in (ratio.ours_s, ratio.peer_s))
                times = f"{ratio.ours_s:.3g}", f"{ratio.peer_s:.3g}"
                rows.append((case.case, peer.peer, CLOCKS[ratio.clock], *times, *spread, *rates, first, load))
            if peer.problem:
                alone = [
                    (CLOCKS[clock], f"{s:.3g}", f"{case.audio_s / s:.3g}") for clock, s in case.ours_s.items()
                ]
                rows += [
                    (case.case, peer.peer, clock, ours, peer.problem, "", "", "", rate, "", "", load)
                    for clock, ours, rate in alone
                ]
    header = (
        "case",
        "peer",
        "clock",
        "ours",
        "peer",
        "ratio",
        "least",
        "most",
        "ours audio s/s",
        "peer audio s/s",
    )
    return table((*header, "peer's first run s", "load before / after"), rows)


def _parts(case: CaseResult) -> list[str]:
    sides = list(case.parts[0].seconds)
    rows = []
    for part in case.parts:
        work = (f"{part.needed_gflop:.4g}", f"{part.peer_gflop:.4g}", f"{part.gigabytes:.3g}")
        cells = [part.part, *(work if part.needed_gflop else ("", "", ""))]
        for side in sides:
            seconds = part.seconds[side]
            share = f"{part.roofline_s / seconds:.0%}" if seconds > 0 and part.roofline_s else ""
            cells += [f"{seconds:.3g}", share]
        cells += [
            f"{part.seconds[side] / part.seconds[OURS]:.2f}x" if part.seconds[OURS] > 0 else ""
            for side in sides
            if side != OURS
        ]
        rows.append(cells)
    header = ["part", "GFLOP needed", "by the peer", "GB needed"]
    header += [text for side in sides for text in (f"{side} s", "% of peak")]
    return table([*header, *(f"{side} / {OURS}" for side in sides if side != OURS)], rows)


def _memory(case: CaseResult) -> str:
    known = {side: held for side, held in case.memory_bytes.items() if held is not None}
    if not known:
        return "Peak memory is not told by this system."
    return (
        "Peak memory beyond the weights: "
        + ", ".join(f"{side} {held / 1e9:.2f} GB" for side, held in known.items())
        + "."
    )
