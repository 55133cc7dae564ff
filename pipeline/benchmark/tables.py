"""A report as Markdown for people and as one JSON line for machines."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.benchmark.outputs import Agreement
from pipeline.benchmark.results import OURS, CaseResult, Report

CLOCKS = {"wall": "wall", "cpu": "CPU time", "device": "GPU events"}


def markdown(report: Report) -> str:
    """The whole report, one section."""
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
    for side, notes in report.notes.items():
        called = "Ours" if side == OURS else f"The {side} peer"
        lines += [f"{called}: {'; '.join(notes)}.", ""]
    lines += ["Both sides agree:", "", *_agreements(report.cases), ""]
    lines += [f"Seconds per case, median of {request.rounds} interleaved rounds:", "", *_ratios(report.cases), ""]
    for case in report.cases:
        if case.parts:
            clock = "seconds by the clock" if machine.gpu else "seconds of all threads"
            lines += [f"By part, {case.case}, {clock}:", "", *_parts(case), "", _memory(case), ""]
    return "\n".join(lines)


def write(report: Report, file: Path) -> None:
    """Append to ``file``, and one line to the ``.jsonl`` beside it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as text:
        text.write(markdown(report) + "\n")
    with file.with_suffix(".jsonl").open("a") as rows:
        rows.write(json.dumps(asdict(report)) + "\n")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, all but the first column aligned to the right."""
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
    rows = []
    for case in cases:
        for peer in case.peers:
            for ratio in peer.ratios:
                spread = f"{ratio.median:.2f}x", f"{ratio.least:.2f}x", f"{ratio.most:.2f}x"
                rates = (f"{case.audio_s / seconds:.3g}" for seconds in (ratio.ours_s, ratio.peer_s))
                times = f"{ratio.ours_s:.3g}", f"{ratio.peer_s:.3g}"
                before, after = case.load
                own = (case.case, peer.peer, CLOCKS[ratio.clock], *times, *spread, *rates)
                rows.append((*own, f"{peer.first_s:.3g}", f"{before:.1f} / {after:.1f}"))
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
    return table((*header, "peer's first run", "load before / after"), rows)


def _parts(case: CaseResult) -> list[str]:
    sides = list(case.memory_bytes)
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
