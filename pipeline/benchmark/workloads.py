"""Workloads as plain data: tracks, settings and seeds, without tensors."""

from dataclasses import dataclass

from acestep.constants import HOP, LATENT_RATE, MIN_LATENT_FRAMES, MIN_WORK_S
from acestep.language.prompt import Prompt
from acestep.sampling.plan import CoverPlan, resolve
from acestep.sampling.setting import CoverSetting
from pipeline.benchmark.config import BenchmarkRequest

STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
GUIDANCES = (3.0, 5.0, 7.0, 9.0)
GUIDANCE = 7.0
STEP_DURATIONS_S = (30.0, 240.0, 600.0)
LONG_DURATIONS_S = (240.0, 600.0)
CATALOGUE_S = (
    *(203, 187, 245, 61, 219, 174, 300, 198, 232, 45, 211, 156, 264, 189, 207, 223),
    *(28, 241, 193, 168, 278, 215, 92, 201, 182, 236, 20, 209, 251, 177, 226, 134),
)
CPU_CATALOGUE_FACTOR = 0.1
WINDOW = 5  # latent frames that share one code
MIN_WINDOWS = -(-MIN_LATENT_FRAMES // WINDOW)

_CAPTIONS = (
    "heavy metal, distorted guitars, double bass",
    "smooth jazz, brushed drums, double bass",
    "synthwave, analogue pads, gated snare",
    "string quartet, slow, warm room",
)
_LINE = "On the road again, the night is young\n"
_KEYS = ("F# minor", "C major", "Bb major", "E minor")


@dataclass(frozen=True)
class SyntheticTrack:
    """One source of whole windows of five latent frames, which codes cover exactly."""

    prompt: Prompt
    frames: int
    seed: int

    @property
    def duration_s(self) -> float:
        return self.frames / LATENT_RATE

    @property
    def samples(self) -> int:
        return self.frames * HOP


@dataclass(frozen=True)
class CoverJob:
    """One cover: its track (by index), setting and seed."""

    track: int
    setting: CoverSetting
    seed: int


@dataclass(frozen=True)
class Workload:
    """Covers that are made and timed together.

    semantics: what the peer runs: "pipeline", its own pipeline, which blends velocities, or "switch", its modules
        in a loop that switches prompts like upstream.
    """

    name: str
    turbo: bool
    tracks: tuple[SyntheticTrack, ...]
    covers: tuple[CoverJob, ...]
    semantics: str = "pipeline"

    @property
    def audio_s(self) -> float:
        """Seconds of audio of all covers."""
        return sum(self.tracks[cover.track].duration_s for cover in self.covers)

    def plan(self, cover: CoverJob) -> CoverPlan:
        return resolve(cover.setting, self.turbo)

    def peer_reads_source(self, cover: CoverJob) -> bool:
        """Whether the peer encodes the source for a cover: the pipeline always, the loop if a step needs it."""
        return self.semantics == "pipeline" or steps_of_source(cover.setting) > 0


def steps_of_source(setting: CoverSetting) -> int:
    """Steps that follow the source before upstream switches to the text alone."""
    return int((setting.inference_steps or 0) * setting.audio_cover_strength)


def make_track(duration_s: float, seed: int) -> SyntheticTrack:
    """A track with lyrics in proportion to its length: two and a half bytes per second."""
    size = int(min(max(2.5 * duration_s, 100), 1200))
    prompt = Prompt(
        caption=_CAPTIONS[seed % len(_CAPTIONS)],
        lyrics=(_LINE * (1 + size // len(_LINE)))[:size],
        language="en",
        bpm=90 + seed % 80,
        keyscale=_KEYS[seed % len(_KEYS)],
        timesignature="4",
    )
    return SyntheticTrack(prompt, WINDOW * max(round(duration_s * LATENT_RATE / WINDOW), MIN_WINDOWS), seed)


def make_setting(
    steps: int, turbo: bool, strength: float = 1.0, guidance: float = GUIDANCE, blend: str = "switch"
) -> CoverSetting:
    """A setting that both sides support: guidance on the peer's axis, over all steps."""
    return CoverSetting(
        audio_cover_strength=strength,
        blend=blend,
        guidance_scale=1.0 if turbo else guidance,
        inference_steps=steps,
        cfg_interval_on="one_minus_t",
        cfg_interval_end=1.0,
    )


def cover_workloads(request: BenchmarkRequest, gpu: bool) -> tuple[Workload, ...]:
    """The workloads of a request that makes covers; empty for "vae" and "step"."""
    kind = request.workload
    if kind in ("vae", "step"):
        return ()
    if kind == "catalogue":
        return (_catalogue(request, gpu),)
    if kind == "sweep":
        turbo = request.variant == "turbo"
        durations = request.duration_s or ((240.0,) if gpu else (20.0,))
        return tuple(w for s in durations for w in _sweep(request, s, turbo, _steps(request, turbo, gpu)))
    own = {"single_turbo": ("turbo",), "single_base": ("base",), "long": ("turbo", "base")}[kind]
    variants = (request.variant,) if request.variant else own
    return tuple(
        _single(request, seconds, variant == "turbo", _steps(request, variant == "turbo", gpu))
        for variant in variants
        for seconds in request.duration_s or _single_durations(request, gpu)
    )


def module_durations(request: BenchmarkRequest, gpu: bool) -> tuple[float, ...]:
    """Durations of the workloads "vae" and "step"."""
    if request.duration_s:
        return request.duration_s
    return STEP_DURATIONS_S if request.workload == "step" else (240.0,) if gpu else (10.0,)


def _single_durations(request: BenchmarkRequest, gpu: bool) -> tuple[float, ...]:
    if request.workload == "long":
        return LONG_DURATIONS_S
    return (30.0,) if gpu or request.size == "full" else (10.0,)


def _steps(request: BenchmarkRequest, turbo: bool, gpu: bool) -> int:
    return request.steps or (28 if gpu and not turbo else 8)


def _single(request: BenchmarkRequest, seconds: float, turbo: bool, steps: int) -> Workload:
    cover = CoverJob(0, make_setting(steps, turbo), request.seed)
    name = f"{'turbo' if turbo else 'base'} {seconds:g} s, {steps} steps"
    return Workload(name, turbo, (make_track(seconds, request.seed),), (cover,))


def _sweep(request: BenchmarkRequest, seconds: float, turbo: bool, steps: int) -> tuple[Workload, Workload]:
    """The same grid in upstream's semantics, and in the peer's own blend."""
    guidances = (1.0,) if turbo else GUIDANCES
    track = make_track(seconds, request.seed)

    def covers(blend: str) -> tuple[CoverJob, ...]:
        return tuple(
            CoverJob(0, make_setting(steps, turbo, strength, guidance, blend), request.seed)
            for strength in STRENGTHS
            for guidance in guidances
        )

    grid = f"{len(STRENGTHS)} x {len(guidances)}, {seconds:g} s, {steps} steps"
    return (
        Workload(f"sweep {grid}, switch", turbo, (track,), covers("switch"), "switch"),
        Workload(f"sweep {grid}, velocity blend", turbo, (track,), covers("velocity")),
    )


def _catalogue(request: BenchmarkRequest, gpu: bool) -> Workload:
    turbo = request.variant != "base"
    steps = _steps(request, turbo, gpu)
    factor = 1.0 if gpu else CPU_CATALOGUE_FACTOR
    lengths = CATALOGUE_S[: request.tracks or len(CATALOGUE_S)]
    tracks = tuple(make_track(max(factor * s, MIN_WORK_S), request.seed + k) for k, s in enumerate(lengths))
    setting = make_setting(steps, turbo)
    covers = tuple(CoverJob(k, setting, request.seed + k) for k in range(len(tracks)))
    scaled = "" if gpu else f" (lengths x {factor:g}, at least {MIN_WORK_S:g} s)"
    return Workload(f"catalogue of {len(tracks)}, {steps} steps{scaled}", turbo, tracks, covers)
