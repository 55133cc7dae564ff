"""Benchmark cases: each runs on either side and returns its outputs.

Legend: t latent frames, c latent channels, n samples, s condition tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from acestep.audio.files import finish
from acestep.constants import SAMPLE_RATE
from acestep.generation.chain import Chain
from acestep.generation.conditions import prepare, prepare_codes
from acestep.generation.stages import Stage
from acestep.handler import AceStepHandler
from pipeline.benchmark.diffusers_covers import Codes, by_pipeline, by_switch
from pipeline.benchmark.output_diff import Outputs
from pipeline.benchmark.patching import results_of
from pipeline.benchmark.restyle_side import as_variant
from pipeline.benchmark.workloads import SyntheticTrack, Workload

TRACKS_IN_FP32 = 2  # tracks of a workload that are also made in fp32, where the sides run in less


@dataclass(frozen=True)
class CoverCase:
    """Covers from waveform and prompt to latents and waveform.

    sources: a waveform ``[2, n]`` of each track; see ``make_cover_case``.
    codes: codes of each track that replace its source, so that both sides use the same.
    ready: cache of prepared inputs.
    """

    work: Workload
    sources: tuple[Tensor, ...]
    codes: tuple[Codes, ...] | None = None
    ready: "Ready" = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.work.name

    @property
    def audio_s(self) -> float:
        return self.work.audio_s

    def ours(self, handler: AceStepHandler) -> Outputs:
        """As the job does it: conditions once per track, then its covers in a chain."""
        make = partial(as_variant, handler, self.work.turbo)
        handler = _once(self.ready, handler, handler.dtype, make)
        made: dict[int, tuple[Tensor, Tensor]] = {}
        for number, track in enumerate(self.work.tracks):
            own = [k for k, cover in enumerate(self.work.covers) if cover.track == number]
            settings = [self.work.covers[k].setting for k in own]
            if self.codes is None:
                plans = [self.work.plan(self.work.covers[k]) for k in own]
                conditions = prepare(handler, self.sources[number], track.prompt, plans)
            else:
                conditions = prepare_codes(handler, self.codes[number], track.prompt)
            runs = [((Stage(s),), self.work.covers[k].seed) for s, k in zip(settings, own, strict=True)]
            chain = Chain(conditions, runs)
            for k, (stages, seed) in zip(own, runs, strict=True):
                cover = chain.run(stages, seed)
                made[k] = cover.latents.cpu(), finish(cover.wave)
        return _outputs([made[k] for k in range(len(self.work.covers))])

    def theirs(self, pipeline: Any) -> Outputs:
        pipeline.is_turbo = self.work.turbo
        make = by_switch if self.work.semantics == "switch" else by_pipeline
        return _outputs(
            [
                make(
                    pipeline,
                    self.work.tracks[cover.track],
                    cover,
                    self.sources[cover.track],
                    None if self.codes is None else self.codes[cover.track],
                )
                for cover in self.work.covers
            ]
        )

    def ours_watched(self, handler: AceStepHandler) -> "WatchedOutputs":
        """Outputs of ours, with the latents and codes of each track."""
        encoder, tokenizer = handler.autoencoder, handler.model.tokenizer
        with results_of(encoder, "encode") as latents, results_of(tokenizer, "forward") as codes:
            made = self.ours(handler)
        return WatchedOutputs(made, list(latents), list(codes))

    def theirs_watched(self, pipeline: Any) -> "WatchedOutputs":
        """Outputs of the peer, with the latents and codes of each track, computed again for each cover."""
        encoder, tokenizer = pipeline.vae, pipeline.audio_tokenizer
        with results_of(encoder, "encode") as encoded, results_of(tokenizer, "forward") as read:
            made = self.theirs(pipeline)
        readers = [cover.track for cover in self.work.covers if self.work.peer_reads_source(cover)]
        first = [readers.index(track) for track in sorted(set(readers))]
        latents = [encoded[k].latent_dist.mean.transpose(1, 2) for k in first]
        return WatchedOutputs(made, latents, [read[k][1] for k in first])

    def from_codes(self, codes: list[Tensor]) -> "CoverCase":
        """The same covers from given codes."""
        return replace(self, codes=tuple(tuple(one.flatten().tolist()) for one in codes))

    def few(self) -> "CoverCase":
        """One cover of each strength, of the first tracks."""
        tracks = self.work.tracks[:TRACKS_IN_FP32]
        own = [cover for cover in self.work.covers if cover.track < len(tracks)]
        # Reversed, so that the first cover of each kind is kept.
        kinds = {(cover.track, cover.setting.audio_cover_strength): cover for cover in reversed(own)}
        work = replace(self.work, covers=tuple(kinds.values())[::-1], tracks=tracks)
        return replace(self, work=work, sources=self.sources[: len(tracks)])


@dataclass(frozen=True)
class WatchedOutputs:
    """Outputs, and the latents ``[1, t, c]`` and codes of each track's source."""

    outputs: Outputs
    latents: list[Tensor]
    codes: list[Tensor]


def _outputs(made: list[tuple[Tensor, Tensor]]) -> Outputs:
    return {"latents": [latents for latents, _ in made], "audio": [audio for _, audio in made]}


def make_cover_case(work: Workload) -> CoverCase:
    """A workload with its sources."""
    return CoverCase(work, tuple(map(make_source, work.tracks)))


def make_source(track: SyntheticTrack) -> Tensor:
    """A waveform ``[2, n]``, determined by the track's seed: a chord every half second, and noise."""
    generator = torch.Generator().manual_seed(track.seed)
    seconds = torch.arange(track.samples) / SAMPLE_RATE
    pitches = 110 * 2 ** (torch.randint(0, 36, (2, 3), generator=generator) / 12)
    chord = torch.sin(2 * torch.pi * pitches[..., None] * seconds).mean(1)
    return 0.6 * chord * torch.exp(-4 * (seconds % 0.5)) + 0.05 * torch.randn(
        2, track.samples, generator=generator
    )


@dataclass(frozen=True)
class StepCase:
    """One evaluation of the transformer, as in the middle of a run.

    Inputs are on the device. Ours has the modulation and the condition's keys and values prepared, which it
    computes once per run; the peer computes them in every step. guided: both velocities. ready: cache of prepared
    inputs.
    """

    name: str
    audio_s: float
    guided: bool
    x: Tensor
    context: Tensor
    condition: Tensor
    t: float = 0.7
    ready: "Ready" = field(default_factory=dict)

    @torch.inference_mode()
    def ours(self, handler: AceStepHandler) -> Outputs:
        decoder, device = handler.model.decoder, handler.device

        def make() -> tuple[Any, ...]:
            modulation = decoder.modulation(torch.tensor([self.t], device=device))
            cross = decoder.cross_attention(self.condition.to(device))
            return self.x.to(device), self.context.to(device), modulation.at(0), cross

        x, context, at, cross = _once(self.ready, handler, handler.dtype, make)
        if not self.guided:
            return {"velocity": [decoder(x, context, at, cross)]}
        conditional, unconditional = decoder.guided(x, context, at, cross, handler.null)
        return {"velocity": [conditional], "unconditional velocity": [unconditional]}

    @torch.no_grad()
    def theirs(self, pipeline: Any) -> Outputs:
        transformer, rows = pipeline.transformer, 2 if self.guided else 1
        given = {"device": transformer.device, "dtype": transformer.dtype}

        def make() -> tuple[Any, ...]:
            null = pipeline.condition_encoder.null_condition_emb.to(**given)
            tensors = (tensor.to(**given) for tensor in (self.x, self.context, self.condition))
            return *tensors, null, torch.full((rows,), self.t, **given)

        x, context, condition, null, time = _once(self.ready, pipeline, transformer.dtype, make)
        if self.guided:
            condition = torch.cat((condition, null.expand_as(condition)))
        velocities = transformer(
            hidden_states=x.repeat(rows, 1, 1),
            timestep=time,
            timestep_r=time,
            encoder_hidden_states=condition,
            context_latents=context.repeat(rows, 1, 1),
            return_dict=False,
        )[0]
        names = ("velocity", "unconditional velocity")
        return {name: [one] for name, one in zip(names, velocities.chunk(rows), strict=False)}


@dataclass(frozen=True)
class VaeCase:
    """The autoencoder alone: ``given`` is a waveform ``[1, 2, n]`` to encode, or latents ``[1, t, c]`` to decode.

    Inputs are on the device. ready: cache of prepared inputs.
    """

    name: str
    audio_s: float
    encodes: bool
    given: Tensor
    ready: "Ready" = field(default_factory=dict)

    @torch.inference_mode()
    def ours(self, handler: AceStepHandler) -> Outputs:
        given = _once(self.ready, handler, handler.dtype, lambda: self.given.to(handler.device))
        if self.encodes:
            return {"latents": [handler.autoencoder.encode(given)]}
        return {"audio": [handler.autoencoder.decode(given)]}

    @torch.no_grad()
    def theirs(self, pipeline: Any) -> Outputs:
        device, dtype = pipeline.transformer.device, pipeline.vae.dtype
        given = _once(self.ready, pipeline, dtype, lambda: self.given.to(device, dtype))
        if self.encodes:
            return {"latents": [pipeline.vae.encode(given).latent_dist.mean.transpose(1, 2)]}
        return {"audio": [pipeline.vae.decode(given.transpose(1, 2)).sample]}


Ready = dict[tuple[int, torch.dtype], Any]


def _once(ready: Ready, side: Any, dtype: torch.dtype, make: Callable[[], Any]) -> Any:
    """A side's prepared inputs, computed at its first run in each ``dtype``."""
    key = id(side), dtype
    if key not in ready:
        ready[key] = make()
    return ready[key]
