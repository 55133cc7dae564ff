"""Time by part and peak memory of one case, against the limits of the machine."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from acestep.handler import AceStepHandler
from pipeline.benchmark.case_flops import PartWork, work_of
from pipeline.benchmark.cases import CoverCase, StepCase, VaeCase
from pipeline.benchmark.flops import Cost
from pipeline.benchmark.machine import Peaks, peak_memory
from pipeline.benchmark.part_timing import PARTS, REST, Seam, by_part
from pipeline.benchmark.results import PartRow


def roofline_s(cost: Cost, peaks: Peaks, item_bytes: int) -> float:
    """Lower bound on the time of some work: the larger of compute time and memory time."""
    return max(cost.flops / peaks.flops, cost.elements * item_bytes / peaks.bytes)


def break_down(
    case: CoverCase | StepCase | VaeCase,
    handler: AceStepHandler,
    calls: Mapping[str, Callable[[], Any]],
    patches: Mapping[str, list[Seam]],
    peaks: Peaks,
) -> tuple[list[PartRow], dict[str, float | None]]:
    """Time by part and peak memory of each side, in separate runs, since measuring memory costs time."""
    device, item = handler.device, torch.tensor([], dtype=handler.dtype).element_size()
    spent: dict[str, dict[str, float]] = {}
    memory: dict[str, float | None] = {}
    for name, call in calls.items():
        with by_part(patches[name], device) as spent[name]:
            call()
        with peak_memory(device) as peak:
            call()
        memory[name] = peak["bytes"]
    work = {**work_of(case, handler), REST: PartWork(Cost(), Cost())}
    rows = []
    for part in (part for part in PARTS if part in work):
        needed, peer = work[part].needed, work[part].peer
        seconds = {name: own[part] for name, own in spent.items()}
        least_s = roofline_s(needed, peaks, item)
        moved = needed.elements * item
        rows.append(PartRow(part, needed.flops / 1e9, peer.flops / 1e9, moved / 1e9, least_s, seconds))
    return rows, memory
