"""One benchmark from a request: build both sides, check that they agree, time them in turn."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from acestep.compiled import compile_parts, warm_up
from acestep.errors import RequestError
from acestep.handler import AceStepHandler, pick_device, pick_dtype
from pipeline.benchmark.cases import CoverCase, StepCase, VaeCase, make_source
from pipeline.benchmark.machine import Peaks, cores, describe, load, measure_peaks, now, peak_memory
from pipeline.benchmark.ours import make_handler
from pipeline.benchmark.outputs import Agreement, Outputs, check_codes, equal, no_worse
from pipeline.benchmark.parts import PARTS, REST, Seam, by_part, our_seams, peer_seams
from pipeline.benchmark.peer import cast, make_pipeline, round_to
from pipeline.benchmark.request import BenchmarkRequest
from pipeline.benchmark.results import OURS, CaseResult, PartRow, PeerResult, Report
from pipeline.benchmark.sizes import SIZES, Size
from pipeline.benchmark.timing import Sample, interleave, measure, measured, ratios
from pipeline.benchmark.tuned import tune
from pipeline.benchmark.work import work_of
from pipeline.benchmark.workloads import cover_workloads, make_track, module_durations

TEXT_TOKENS = 120
AnyCase = CoverCase | StepCase | VaeCase


@dataclass(frozen=True)
class Sides:
    """Both sides, ready to run; peers by name."""

    handler: AceStepHandler
    peers: Mapping[str, Any]

    def calls(self, case: AnyCase) -> dict[str, Callable[[], Outputs]]:
        peers = {name: partial(case.theirs, pipeline) for name, pipeline in self.peers.items()}
        return {OURS: partial(case.ours, self.handler), **peers}


def benchmark(request: BenchmarkRequest, tell: Callable[[str], None]) -> Report:
    """Run one benchmark.

    Args:
        tell: called with a line for each thing that begins.

    Raises:
        EqualityError: the two sides do not agree.
        RequestError: the device is not there, or has no use for compiling.
    """
    device = pick_device(request.device)
    dtype, size = pick_dtype(request.dtype, device), SIZES[request.size]
    if request.compiled and device.type == "cpu" and dtype == torch.float32:
        raise RequestError("compiled=true is for GPUs: float32 on a CPU runs in rows, which torch.compile unrolls")
    torch.set_num_threads(request.threads or cores())
    # Convolutions would otherwise run in TF32 on a GPU, and fp32 is what everything is compared with.
    torch.backends.cudnn.allow_tf32 = False
    tell(f"building {size.name} with random weights on {device}")
    pipeline = make_pipeline(size, request.seed, device)
    cases = list(make_cases(request, size, device.type == "cuda"))
    references: dict[str, tuple[AnyCase, Outputs]] = {}
    if dtype != torch.float32:
        tell("references in float32")
        round_to(pipeline, dtype)
        references = {case.name: _reference(case, pipeline) for case in cases}
        cast(pipeline, dtype)
    handler = make_handler(pipeline, size, dtype)
    peers: dict[str, Any] = {}
    notes: dict[str, tuple[str, ...]] = {}
    if request.compiled:
        tell("compiling ours")
        sample = measure(partial(_compile, handler), device)
        notes[OURS] = (f"compiled in {sample.wall:.0f} s, which no case includes",)
    if request.peer in ("default", "both"):
        peers["default"] = pipeline
    if request.peer in ("tuned", "both"):
        tuned = tune(pipeline, size)
        peers["tuned"], notes["tuned"] = tuned.pipeline, tuned.notes
    sides, peaks = Sides(handler, peers), measure_peaks(device, dtype)
    results = []
    for case in cases:
        tell(f"{case.name}: do both sides agree?")
        results.append(run_case(case, sides, request, peaks, references.get(case.name), tell))
    name = str(dtype).removeprefix("torch.")
    return Report(request, now(), str(device), name, describe(device), peaks, notes, results)


def _compile(handler: AceStepHandler) -> None:
    compile_parts(handler.model, handler.autoencoder)
    warm_up(handler.model, handler.autoencoder, handler.null)


def make_cases(request: BenchmarkRequest, size: Size, gpu: bool) -> Iterable[AnyCase]:
    """The cases of a request."""
    for work in cover_workloads(request, gpu):
        yield CoverCase(work)
    if request.workload not in ("vae", "step"):
        return
    generator = torch.Generator().manual_seed(request.seed)
    config = size.model_config
    channels, width = config.latent_channels, config.encoder.hidden_size
    for seconds in module_durations(request, gpu):
        track = make_track(seconds, request.seed)
        latents = torch.randn(1, track.frames, channels, generator=generator)
        if request.workload == "vae":
            yield VaeCase(f"encode {seconds:g} s", track.duration_s, True, make_source(track)[None])
            yield VaeCase(f"decode {seconds:g} s", track.duration_s, False, latents)
            continue
        context = torch.cat((torch.randn(latents.shape, generator=generator), torch.ones_like(latents)), dim=-1)
        condition = torch.randn(1, len(track.prompt.lyrics) + 1 + TEXT_TOKENS, width, generator=generator)
        for guided in (False, True):
            name = f"{'guided' if guided else 'single'} step {seconds:g} s"
            yield StepCase(name, track.duration_s, guided, latents, context, condition)


def run_case(
    case: AnyCase,
    sides: Sides,
    request: BenchmarkRequest,
    peaks: Peaks,
    reference: tuple[AnyCase, Outputs] | None,
    tell: Callable[[str], None],
) -> CaseResult:
    """Check one case and time it.

    Raises:
        EqualityError: the sides do not agree.
    """
    before, device, calls = load(), sides.handler.device, sides.calls(case)
    checked = {
        name: agree(case, name, sides.handler, pipeline)
        if reference is None
        else agree_in_less(case, name, sides.handler, pipeline, *reference)
        for name, pipeline in sides.peers.items()
    }
    tell(f"{case.name}: timing {request.rounds} rounds")
    samples = interleave(calls, request.rounds, device)
    peers = [
        PeerResult(name, agreements, ratios(samples[OURS], samples[name]), first.wall)
        for name, (agreements, first) in checked.items()
    ]
    rows: list[PartRow] = []
    memory: dict[str, float | None] = {}
    if request.breakdown:
        tell(f"{case.name}: time by part")
        rows, memory = break_down(case, sides, peaks)
    return CaseResult(case.name, case.audio_s, peers, rows, memory, (before, load()))


def agree(case: AnyCase, peer: str, handler: AceStepHandler, pipeline: Any) -> tuple[list[Agreement], Sample]:
    """Compare both sides in fp32, in their first runs; with the time of the peer's.

    Raises:
        EqualityError: they differ.
    """
    if not isinstance(case, CoverCase):
        theirs, first = measured(partial(case.theirs, pipeline), handler.device)
        return equal(case.name, peer, case.ours(handler), theirs), first
    watched, first = measured(partial(case.their_codes, pipeline), handler.device)
    ours = case.our_codes(handler)
    note = check_codes(case.name, peer, ours.codes, watched.codes)
    if not note:
        return equal(case.name, peer, ours.outputs, watched.outputs), first
    case = case.from_codes(watched.codes)
    return equal(case.name, peer, case.ours(handler), case.theirs(pipeline), note), first


def agree_in_less(
    case: AnyCase, peer: str, handler: AceStepHandler, pipeline: Any, fixed: AnyCase, reference: Outputs
) -> tuple[list[Agreement], Sample]:
    """Compare the error of both against fp32, from the same codes; then run both once, so that they are warm.

    Args:
        fixed: the case as it is compared.
        reference: what the peer makes of ``fixed`` in fp32.

    Raises:
        EqualityError: the error of ours is larger.
    """
    note = f"from equal codes, covers: {len(fixed.work.covers)}" if isinstance(fixed, CoverCase) else ""
    found = no_worse(case.name, peer, fixed.ours(handler), fixed.theirs(pipeline), reference, note)
    case.ours(handler)
    return found, measured(partial(case.theirs, pipeline), handler.device)[1]


def _reference(case: AnyCase, pipeline: Any) -> tuple[AnyCase, Outputs]:
    """The case as it is compared, and what the peer makes of it in fp32.

    Codes are fixed, since rounding to them makes any error a whole step.
    """
    fixed: AnyCase = case
    if isinstance(case, CoverCase):
        few = case.few()
        fixed = few.from_codes(few.their_codes(pipeline).codes)
    return fixed, fixed.theirs(pipeline)


def break_down(case: AnyCase, sides: Sides, peaks: Peaks) -> tuple[list[PartRow], dict[str, float | None]]:
    """Time by part and peak memory of each side, in runs of their own: watching memory costs time."""
    device, item = sides.handler.device, torch.tensor([], dtype=sides.handler.dtype).element_size()
    seams: dict[str, list[Seam]] = {OURS: our_seams(sides.handler)}
    seams |= {name: peer_seams(pipeline) for name, pipeline in sides.peers.items()}
    spent: dict[str, dict[str, float]] = {}
    memory: dict[str, float | None] = {}
    for name, call in sides.calls(case).items():
        with by_part(seams[name], device) as spent[name]:
            call()
        with peak_memory(device) as peak:
            call()
        memory[name] = peak["bytes"]
    work = work_of(case, sides.handler)
    rows = []
    for part in PARTS:
        seconds = {name: own[part] for name, own in spent.items()}
        if part not in work and part != REST:
            continue
        own_work = work.get(part)
        flops, moved = (own_work.needed.flops, own_work.needed.elements * item) if own_work else (0.0, 0.0)
        least = max(flops / peaks.flops, moved / peaks.bytes)
        peer_flops = own_work.peer.flops if own_work else 0.0
        rows.append(PartRow(part, flops / 1e9, peer_flops / 1e9, moved / 1e9, least, seconds))
    return rows, memory
