"""Work of a case by part: the minimum of an exact implementation, and what the peer does."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from acestep.handler import AceStepHandler
from acestep.language.prompt import lyric_prompt, text_prompt
from acestep.model.config import BlockConfig
from acestep.sampling.plan import CoverPlan
from acestep.sampling.prefix_tree import build_tree, readings
from pipeline.benchmark import flops as cost
from pipeline.benchmark import part_timing as parts
from pipeline.benchmark.cases import CoverCase, StepCase, VaeCase
from pipeline.benchmark.flops import Cost
from pipeline.benchmark.workloads import CoverJob, SyntheticTrack, Workload


@dataclass(frozen=True)
class PartWork:
    """The work of one part: the minimum of an exact implementation, and what diffusers does."""

    needed: Cost
    peer: Cost


def work_of(case: CoverCase | StepCase | VaeCase, handler: AceStepHandler) -> Mapping[str, PartWork]:
    config, autoencoder = handler.model.config, handler.autoencoder.config
    if isinstance(case, StepCase):
        frames, tokens = case.x.shape[1], case.condition.shape[1]
        needed = cost.step_needed(config, frames, tokens, case.guided)
        return {parts.DIT: PartWork(needed, cost.step_of_peer(config, frames, tokens, 1 + case.guided))}
    if isinstance(case, VaeCase):
        if case.encodes:
            encode = cost.autoencoder_encode(autoencoder, case.given.shape[-1] // handler.autoencoder.hop)
            return {parts.ENCODE: PartWork(encode, encode)}
        decode = cost.autoencoder_decode(autoencoder, case.given.shape[1])
        return {parts.DECODE: PartWork(decode, decode)}
    totals: dict[str, PartWork] = {}
    for number, track in enumerate(case.work.tracks):
        covers = [cover for cover in case.work.covers if cover.track == number]
        for part, own in _track_work(case.work, track, covers, handler).items():
            before = totals.get(part, PartWork(Cost(), Cost()))
            totals[part] = PartWork(before.needed + own.needed, before.peer + own.peer)
    return totals


def _track_work(
    work: Workload, track: SyntheticTrack, covers: list[CoverJob], handler: AceStepHandler
) -> dict[str, PartWork]:
    config, autoencoder = handler.model.config, handler.autoencoder.config
    plans = [work.plan(cover) for cover in covers]
    texts = [sorted({branch.text for branch in plan.branches}) for plan in plans]
    together = sorted({text for own in texts for text in own})
    count = handler.text_encoder.count_tokens
    lyrics = count(lyric_prompt(track.prompt))
    sizes = {text: count(text_prompt(track.prompt, text, track.duration_s)) for text in together}
    tokens = {text: lyrics + 1 + size for text, size in sizes.items()}
    encode = cost.autoencoder_encode(autoencoder, track.frames)
    codes = cost.codes_and_hints(config, track.frames)
    decode = cost.autoencoder_decode(autoencoder, track.frames)
    prompts = {text: cost.text_model(text_block(handler), size) for text, size in sizes.items()}
    # The timbre of silence belongs to the model, not to the track.
    encoders = cost.words(config, lyrics, sum(sizes.values())) + total(prompts.values())
    peer_encoders = total(
        cost.words(config, lyrics, sizes[text]) + cost.timbre(config) + prompts[text]
        for own in texts
        for text in own
    )
    needed = cost.time_embedding(config, max(len(plan.steps) for plan in plans))
    needed += total(cost.cross_keys(config, tokens[text]) for text in together)
    for (text, guided), times in distinct_readings(plans).items():
        needed += cost.step_needed(config, track.frames, tokens[text], guided) * times
    peer = total(
        cost.step_of_peer(config, track.frames, tokens[branch.text], 1 + guided)
        for plan in plans
        for step in plan.steps
        for branch, guided in readings(step)
    )
    reads = sum(map(work.peer_reads_source, covers))
    outputs = len({repr((plan.identity(), cover.seed)) for plan, cover in zip(plans, covers, strict=True)})
    return {
        parts.ENCODE: PartWork(encode, encode * reads),
        parts.CODES: PartWork(codes, codes * reads),
        parts.ENCODERS: PartWork(encoders, peer_encoders),
        parts.DIT: PartWork(needed, peer),
        parts.DECODE: PartWork(decode * outputs, decode * len(covers)),
    }


def total(costs: Iterable[Cost]) -> Cost:
    return sum(costs, Cost())


def distinct_readings(plans: Sequence[CoverPlan]) -> Counter[tuple[str, bool]]:
    """Network evaluations of covers that share track and noise, by text and whether guided, without duplicates."""
    tree = build_tree((None, plan) for plan in plans)
    distinct = {
        (state, *reading)
        for path, plan in zip(tree.paths, tree.plans, strict=True)
        for state, step in zip(path, plan.steps, strict=False)
        for reading in readings(step)
    }
    return Counter((branch.text, guided) for _, branch, guided in distinct)


def text_block(handler: AceStepHandler) -> BlockConfig:
    """Sizes of the text encoder's layers."""
    config = handler.text_encoder.model.config
    return BlockConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=1.0,  # not used: rotary embedding is elementwise
        windows=(None,) * config.num_hidden_layers,
    )
