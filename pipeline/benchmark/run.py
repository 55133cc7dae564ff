"""Runs one benchmark: builds both sides, checks that they agree, and times them in turn."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from acestep.errors import RequestError
from acestep.handler import AceStepHandler, pick_dtype
from acestep.model.compilation import compile_parts, warm_up
from pipeline.benchmark.breakdown import break_down
from pipeline.benchmark.cases import StepCase, VaeCase, make_cover_case, make_source
from pipeline.benchmark.config import BenchmarkRequest
from pipeline.benchmark.diffusers_side import cast, make_pipeline, round_to
from pipeline.benchmark.diffusers_tuned import PARTLY_EAGER, limit_hits, tune
from pipeline.benchmark.equality import AnyCase, EqualityCheck, PeerOutOfMemoryError, agree, make_equality_check
from pipeline.benchmark.machine import Peaks, cores, describe, load, measure_peaks, now, use_device
from pipeline.benchmark.model_sizes import SIZES, Size
from pipeline.benchmark.output_diff import Outputs
from pipeline.benchmark.part_timing import Seam, our_patches, peer_patches
from pipeline.benchmark.restyle_side import make_handler
from pipeline.benchmark.results import OURS, CaseResult, PartRow, PeerResult, Report
from pipeline.benchmark.timing import interleave, measure, medians, ratios
from pipeline.benchmark.workloads import cover_workloads, make_track, module_durations

TEXT_TOKENS = 120


@dataclass(frozen=True)
class Sides:
    """Both sides, ready to run; peers by name."""

    handler: AceStepHandler
    peers: Mapping[str, Any]

    def calls(self, case: AnyCase) -> dict[str, Callable[[], Outputs]]:
        peers = {name: partial(case.theirs, pipeline) for name, pipeline in self.peers.items()}
        return {OURS: partial(case.ours, self.handler), **peers}

    def patches(self) -> dict[str, list[Seam]]:
        """The entry points of the parts of each side."""
        return {OURS: our_patches(self.handler), **{name: peer_patches(peer) for name, peer in self.peers.items()}}


def benchmark(request: BenchmarkRequest, tell: Callable[[str], None]) -> Iterator[Report]:
    """Run one benchmark; yields the report so far after each case.

    Args:
        tell: called with a line for each step.

    Raises:
        EqualityError: the two sides do not agree.
        RequestError: the device does not exist, or does not benefit from compiling.
    """
    device = use_device(request.device)
    dtype, size = pick_dtype(request.dtype, device), SIZES[request.size]
    if request.compiled and device.type == "cpu" and dtype == torch.float32:
        reason = "compiled=true is for GPUs: float32 on a CPU runs in rows, which torch.compile unrolls"
        raise RequestError("conflict", reason, "leave it out")
    torch.set_num_threads(request.threads or cores())
    # On a GPU convolutions would use TF32 by default, but fp32 is the reference of all comparisons.
    torch.backends.cudnn.allow_tf32 = False
    tell(f"building {size.name} with random weights on {device}")
    pipeline = make_pipeline(size, request.seed, device)
    cases = list(make_cases(request, size, device.type == "cuda"))
    checks: dict[str, EqualityCheck] = {case.name: agree for case in cases}
    if dtype != torch.float32:
        tell("references in float32")
        round_to(pipeline, dtype)
        checks = {case.name: make_equality_check(case, pipeline) for case in cases}
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
    results: list[CaseResult] = []
    name, machine = str(dtype).removeprefix("torch."), describe(device)
    for case in cases:
        tell(f"{case.name}: do both sides agree?")
        results.append(run_case(case, checks[case.name], sides, request, peaks, tell))
        yield Report(request, now(), str(device), name, machine, peaks, notes, len(cases), list(results))


def _compile(handler: AceStepHandler) -> None:
    compile_parts(handler.model, handler.autoencoder)
    warm_up(handler.model, handler.autoencoder, handler.null)


def make_cases(request: BenchmarkRequest, size: Size, gpu: bool) -> Iterable[AnyCase]:
    for work in cover_workloads(request, gpu):
        yield make_cover_case(work)
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
    check_equality: EqualityCheck,
    sides: Sides,
    request: BenchmarkRequest,
    peaks: Peaks,
    tell: Callable[[str], None],
) -> CaseResult:
    """Check one case and time it; a peer without enough memory is left out with a note.

    Raises:
        EqualityError: the sides do not agree.
    """
    before, device = load(), sides.handler.device
    checked, refused, able = {}, [], {}
    for name, pipeline in sides.peers.items():
        try:
            found = check_equality(case, name, sides.handler, pipeline)
        except PeerOutOfMemoryError as error:
            tell(f"{case.name}: the {name} peer: {error}")
            refused.append(PeerResult(name, [], [], None, str(error)))
            continue
        called = PARTLY_EAGER if name == "tuned" and limit_hits() else name
        checked[called], able[called] = found, pipeline
    if not able:
        case.ours(sides.handler)  # warm-up, which the equality checks do otherwise
    sides = replace(sides, peers=able)
    tell(f"{case.name}: timing {request.rounds} rounds")
    samples = interleave(sides.calls(case), request.rounds, device)
    peers = [
        PeerResult(name, agreements, ratios(samples[OURS], samples[name]), first.wall)
        for name, (agreements, first) in checked.items()
    ]
    rows: list[PartRow] = []
    memory: dict[str, float | None] = {}
    if request.breakdown:
        tell(f"{case.name}: time by part")
        rows, memory = break_down(case, sides.handler, sides.calls(case), sides.patches(), peaks)
    ours_s, loads = medians(samples[OURS]), (before, load())
    return CaseResult(case.name, case.audio_s, ours_s, [*peers, *refused], rows, memory, loads)
