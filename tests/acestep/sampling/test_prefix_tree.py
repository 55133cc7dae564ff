"""A sweep as a tree: what is shared, that it changes no sample, and that nothing is kept or evaluated in vain."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acestep.generation.chain import Chain, Key
from acestep.generation.conditions import TrackConditions, prepare
from acestep.generation.stages import Stage, parse_stages
from acestep.handler import AceStepHandler
from acestep.language.prompt import Prompt
from acestep.model.autoencoder import Autoencoder
from acestep.sampling.plan import CoverPlan, resolve
from acestep.sampling.prefix_tree import PrefixTree, branch_points, build_tree, plan_key
from acestep.sampling.sampler import denoise
from acestep.sampling.setting import CoverSetting, parse_setting
from tests.acestep.sampling.test_sampler import Counter
from tests.conftest import tone

STRENGTHS, GUIDANCES = (0.2, 0.4, 0.6, 0.8, 1.0), (3.0, 5.0, 7.0, 9.0)
FEW = CoverSetting(inference_steps=6, guidance_scale=5.0, audio_cover_strength=0.6)
EDIT = {"flow_edit_morph": True, "flow_edit_source_caption": "country"}
KNOBS: list[dict[str, Any]] = [
    {},
    {"audio_cover_strength": 0.3},
    {"audio_cover_strength": 0.0},
    {"guidance_scale": 8.0},
    {"guidance_scale": 1.0},
    {"guidance": "adg"},
    {"guidance": "cfg"},
    {"cfg_interval_start": 0.3},
    {"cfg_interval_start": 0.3, "guidance_scale": 8.0},
    {"cfg_interval_end": 0.5},
    {"task_type": "cover-nofsq"},
    {"blend": "velocity"},
    {"blend": "velocity", "audio_cover_strength": 0.3},
    {"blend": "embed"},
    {"blend": "embed_context", "guidance_scale": 8.0},
    {"cover_noise_strength": 0.4},
    {"cover_noise_strength": 0.4, "audio_cover_strength": 0.3},
    {"infer_method": "sde"},
    {"infer_method": "sde", "audio_cover_strength": 0.3},
    {"sampler_mode": "heun"},
    {"sampler_mode": "heun", "audio_cover_strength": 0.3, "blend": "velocity"},
    {"velocity_norm_threshold": 0.5},
    {"velocity_ema_factor": 0.3},
    {"velocity_ema_factor": 0.3, "audio_cover_strength": 0.3},
    {"dcw_enabled": True},
    {"dcw_enabled": True, "dcw_scaler": 0.1},
    {"retake_variance": 0.5, "retake_seed": 1},
    {"reference_pick": "random"},
    {"reference_pick": "full"},
    {"inference_steps": 5},
    {"timesteps": (1.0, 0.6, 0.2, 0.0)},
    EDIT,
    {**EDIT, "flow_edit_n_max": 0.5},
    {**EDIT, "flow_edit_n_max": 0.5, "guidance_scale": 8.0},
]


class Watched:
    """A model whose evaluations are counted."""

    def __init__(self, model: Any):
        self.model, self.decoder = model, Counter(model.decoder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


@pytest.fixture(scope="module")
def track(base: AceStepHandler) -> TrackConditions:
    """A track of a model that decodes fast: its autoencoder has one channel."""
    torch.manual_seed(0)
    autoencoder = Autoencoder(replace(base.autoencoder.config, decoder_channels=1, multiples=(1, 1, 1, 1, 1)))
    handler = replace(base, autoencoder=autoencoder.eval())
    wave = torch.from_numpy(tone(5.2).T.copy())
    reference = torch.from_numpy(tone(31.0, pitch_hz=330).T.copy())
    return prepare(handler, wave, Prompt("metal", "la"), [resolve(FEW, False)], reference)


def sweep(**values: Any) -> list[CoverSetting]:
    common = parse_setting(values, FEW)
    pairs = product(STRENGTHS, GUIDANCES)
    return [replace(common, audio_cover_strength=s, guidance_scale=g) for s, g in pairs]


def tree_of(settings: Sequence[CoverSetting], is_turbo: bool = False) -> PrefixTree:
    return build_tree([(None, resolve(setting, is_turbo)) for setting in settings])


def alone(track: TrackConditions, stage: Stage, seed: int) -> Tensor:
    handler, conditions = track.handler, replace(track, prompt=stage.prompt(track.prompt))
    trajectory = conditions.trajectory(resolve(stage.setting, handler.is_turbo), seed)
    return denoise(handler.model.decoder, handler.null, [trajectory])[0]


def keys_of(settings: Sequence[CoverSetting], seeds: Sequence[int] = (3,)) -> list[Key]:
    return [((Stage(setting),), seed) for seed in seeds for setting in settings]


def counted(track: TrackConditions) -> tuple[TrackConditions, Counter]:
    model = Watched(track.handler.model)
    return replace(track, handler=replace(track.handler, model=model)), model.decoder


@pytest.mark.parametrize(
    ("interval", "evaluations", "separate"),
    [((0.0, 1.0), 682, 1120), ((0.0, 0.95), 662, 1100), ((0.25, 1.0), 613, 980)],
)
def test_five_strengths_at_four_guidances(interval: tuple[float, float], evaluations: int, separate: int) -> None:
    tree = tree_of(sweep(inference_steps=28, cfg_interval_start=interval[0], cfg_interval_end=interval[1]))
    assert (tree.evaluations, tree.evaluations_alone) == (evaluations, separate)
    assert str(tree).startswith(
        f"20 trajectories: {evaluations} network evaluations, {separate} where each runs alone"
    )


def test_the_printed_tree_shows_where_lanes_part() -> None:
    tree = tree_of(sweep(inference_steps=28, cfg_interval_end=1.0))
    assert [line.split() for line in str(tree).splitlines()[2:]] == [
        ["1", "4", "2", "40"],  # four guidances of the same two velocities
        ["2-5", "4", "8", "40"],
        ["6-11", "8", "16", "40"],
        ["12-16", "12", "24", "40"],
        ["17-22", "16", "32", "40"],
        ["23-28", "20", "40", "40"],
    ]


def test_guidance_that_begins_late_is_no_difference_before() -> None:
    tree = tree_of(sweep(inference_steps=28, cfg_interval_start=0.25, cfg_interval_end=1.0))
    assert [level.trajectories for level in tree.levels[:9]] == [1] * 5 + [2] * 2 + [8, 8]
    assert [level.evaluations for level in tree.levels[:9]] == [1] * 5 + [2] * 2 + [4, 16]


def test_turbo_shares_by_strength_and_makes_equal_covers_once() -> None:
    tree = tree_of([replace(s, inference_steps=8) for s in sweep()], is_turbo=True)
    assert len(set(tree.paths)) == 5  # guidance has no effect there
    assert (tree.evaluations, tree.evaluations_alone) == (26, 160)


def test_blended_velocities_share_the_first_step() -> None:
    mixed = [replace(FEW, blend="velocity", audio_cover_strength=s) for s in (0.3, 0.6)]
    assert [level.evaluations for level in tree_of(mixed).levels] == [3, 6, 6, 6, 6, 6]


def plans_of_knobs() -> list[CoverPlan]:
    return [resolve(parse_setting(values, FEW), False) for values in KNOBS]


def test_routes_are_equal_where_identities_are() -> None:
    plans = plans_of_knobs()
    plans += [replace(plan, notes=("a note",), shift=9.0) for plan in plans[:3]]
    for one, other in product(plans, plans):
        assert (plan_key(one) == plan_key(other)) == (one.identity() == other.identity())


def test_what_is_given_tells_lanes_apart_from_the_start() -> None:
    plan = resolve(FEW, False)
    tree = build_tree([(3, plan), (4, plan), (3, plan)])
    assert tree.paths[0] == tree.paths[2]
    assert not set(tree.paths[0]) & set(tree.paths[1])
    assert tree.evaluations == 2 * plan.evaluations


def test_forks_name_the_state_and_what_is_read_there() -> None:
    plans = [resolve(replace(FEW, audio_cover_strength=s), False) for s in (0.5, 1.0)]
    plans.append(resolve(replace(FEW, guidance_scale=8.0), False))
    path, *others = build_tree([(None, plan) for plan in plans]).paths
    found = branch_points(path, list(zip(others, plans[1:], strict=True)))
    cover = plans[1].steps[0].branch
    assert found == {path[3]: {(cover, True)}, path[0]: {(cover, True)}}
    assert branch_points(path, [(path, plans[0])]) == {}


@pytest.fixture(scope="module")
def expected(track: TrackConditions) -> dict[Key, Tensor]:
    """The covers of the sweep, each made alone."""
    return {key: alone(track, key[0][0], key[1]) for key in keys_of(sweep())}


def test_the_tree_gives_the_samples_of_separate_runs(track: TrackConditions, expected: dict[Key, Tensor]) -> None:
    watched, decoder = counted(track)
    chain, most = Chain(watched, expected), 0
    for key, latents in expected.items():
        assert torch.equal(chain.run(*key).latents, latents)
        most = max(most, len(chain.states))
    assert decoder.calls == chain.tree.evaluations < chain.tree.evaluations_alone
    assert len({float(latents.sum()) for latents in expected.values()}) == 20
    assert most <= 5  # the start and one state of each guidance
    assert not chain.states
    assert not chain.kept


def test_neither_order_nor_what_is_missing_matters(track: TrackConditions, expected: dict[Key, Tensor]) -> None:
    shuffled = random.Random(1).sample(list(expected), len(expected))
    for keys in (shuffled[:9], shuffled[15:]):
        watched, decoder = counted(track)
        chain = Chain(watched, keys)
        assert all(torch.equal(chain.run(*key).latents, expected[key]) for key in keys)
        assert decoder.calls == chain.tree.evaluations
        assert not chain.states
    # Announced in one order and run in another.
    chain = Chain(track, shuffled[:5])
    assert all(torch.equal(chain.run(*key).latents, expected[key]) for key in shuffled[:5][::-1])
    assert not chain.states


def test_every_knob_beside_every_other(track: TrackConditions) -> None:
    """One chain of all settings, two seeds and three captions or lyrics, each cover as if alone."""
    short = replace(FEW, inference_steps=4)
    settings = [parse_setting(values, short) for values in KNOBS]
    random_pick = replace(short, reference_pick="random")
    keys = [*keys_of(settings), *keys_of([*settings[:3], random_pick], seeds=(4,))]
    keys += [((Stage(short, caption="rock"),), 3), ((Stage(short, lyrics="oh"),), 3)]
    keys = random.Random(2).sample(keys, len(keys))
    watched, decoder = counted(track)
    chain = Chain(watched, keys)
    for stages, seed in keys:
        nothing_computed = replace(track, contexts={}, prompts={}, heard={})
        expected = alone(nothing_computed, stages[0], seed)
        assert torch.equal(chain.run(stages, seed).latents, expected), stages
    assert decoder.calls == chain.tree.evaluations < 0.9 * chain.tree.evaluations_alone
    assert not chain.states


def test_a_lane_that_goes_on_leaves_the_states_behind_it_alone(track: TrackConditions) -> None:
    common = replace(FEW, velocity_ema_factor=0.3)
    keys = keys_of([replace(common, audio_cover_strength=s, guidance_scale=g) for s in (0.5, 1) for g in (3, 5)])
    chain = Chain(track, keys)
    chain.run(*keys[0])
    kept = list(chain.states.values())
    tensors = [
        tensor
        for snapshot in kept
        for tensor in (
            snapshot.state.x,
            *snapshot.state.momenta.values(),
            *(t for v in snapshot.velocities.values() for t in (v.conditional, v.unconditional) if t is not None),
            *([] if snapshot.state.last_velocity is None else [snapshot.state.last_velocity]),
        )
    ]
    # The start with its two velocities; and behind three steps the state, the momentum and the last velocity.
    assert len(tensors) == 3 + 3
    before = [tensor.clone() for tensor in tensors]
    for key in keys[1:]:
        chain.run(*key)
    assert all(map(torch.equal, tensors, before))


def test_a_cover_that_breaks_off_spoils_no_other(
    track: TrackConditions, expected: dict[Key, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = list(expected)[:6]
    watched, decoder = counted(track)
    chain = Chain(watched, keys)
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "guided", _breaking(decoder.guided, at=4))
        with pytest.raises(MemoryError):
            chain.run(*keys[0])
    assert all(torch.equal(chain.run(*key).latents, expected[key]) for key in keys[1:])
    assert not chain.states


def _breaking(evaluate: Any, at: int) -> Any:
    calls = iter(range(at))

    def evaluated(*given: Any) -> Any:
        if next(calls, None) is None:
            raise MemoryError
        return evaluate(*given)

    return evaluated


def test_equal_covers_are_made_and_decoded_once(track: TrackConditions) -> None:
    """A guidance interval that holds no step leaves guidance without an effect."""
    outside = {"cfg_interval_start": 0.97, "cfg_interval_end": 1.0}
    keys = keys_of([parse_setting({"guidance_scale": g, **outside}, FEW) for g in (3.0, 7.0)])
    chain = Chain(track, keys)
    first, second = (chain.run(*key) for key in keys)
    assert second.wave is first.wave
    assert first.denoise_s > 0 < first.decode_s
    assert (second.denoise_s, second.decode_s) == (0, 0)
    assert not chain.kept


@pytest.fixture
def uses(track: TrackConditions) -> Iterator[dict[str, int]]:
    """How often parts of the model were used."""
    model, counts = track.handler.model, {}
    parts: dict[str, nn.Module] = {
        "tokenizer": model.tokenizer,
        "lyric_encoder": model.encoder.lyric_encoder,
        "timbre_encoder": model.encoder.timbre_encoder,
        "text_projector": model.encoder.text_projector,
        "source_encoder": track.handler.autoencoder.encoder,
    }

    def watch(name: str, part: nn.Module) -> Any:
        counts[name] = 0

        def used(*_: Any) -> None:
            counts[name] += 1

        return part.register_forward_hook(used)

    hooks = [watch(name, part) for name, part in parts.items()]
    yield counts
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    ("values", "source", "codes", "texts"),
    [
        ({"audio_cover_strength": 1.0}, 1, 1, 1),
        ({"audio_cover_strength": 0.5}, 1, 1, 2),
        ({"audio_cover_strength": 0.0}, 0, 0, 1),
        ({"audio_cover_strength": 0.1}, 0, 0, 1),  # less than one step of six
        ({"audio_cover_strength": 0.0, "cover_noise_strength": 0.5}, 1, 0, 1),
        ({"task_type": "cover-nofsq", "audio_cover_strength": 1.0}, 1, 0, 1),
    ],
    ids=str,
)
def test_nothing_is_computed_that_no_step_reads(
    track: TrackConditions, uses: dict[str, int], values: dict, source: int, codes: int, texts: int
) -> None:
    handler = replace(track.handler)  # one that has not heard the silence of no reference yet
    setting, wave = parse_setting(values, FEW), torch.from_numpy(tone(5.2).T.copy())

    def two_seeds(caption: str) -> None:
        conditions = prepare(handler, wave, Prompt(caption, "la"), [resolve(setting, False)])
        for key in keys_of([setting], seeds=(1, 2)):
            conditions.trajectory(resolve(key[0][0].setting, False), key[1])

    two_seeds("rock")
    assert uses == {
        "source_encoder": source,
        "tokenizer": codes,
        "text_projector": texts,
        "lyric_encoder": 1,
        "timbre_encoder": 1,
    }
    two_seeds("jazz")
    assert uses["timbre_encoder"] == 1  # once per model
    assert uses["text_projector"] == 2 * texts


def test_a_random_reference_is_heard_anew_for_each_seed(track: TrackConditions) -> None:
    plan = resolve(parse_setting({"reference_pick": "random"}, FEW), False)
    heard = [track.trajectory(plan, seed).conditions[plan.steps[0].branch].cross.keys[0] for seed in (3, 4, 3)]
    assert torch.equal(heard[0], heard[2])
    assert not torch.equal(heard[0], heard[1])


def test_steps_outside_the_interval_have_no_unconditional_velocity(track: TrackConditions) -> None:
    plan = resolve(parse_setting({"cfg_interval_start": 0.3, "cfg_interval_end": 0.7}, FEW), False)
    watched, decoder = counted(track)
    denoise(decoder, track.handler.null, [watched.trajectory(plan, 3)])
    assert decoder.calls == 6 + 3  # steps 2, 3 and 4 of six


def test_sources_of_later_stages_are_shared_and_heard_once(track: TrackConditions, uses: dict[str, int]) -> None:
    """Two first stages that begin alike, each the source of two second ones; only the latter are asked for."""
    chains = [
        parse_stages([{"audio_cover_strength": first}, {"audio_cover_strength": second}], FEW)
        for first in (0.5, 1.0)
        for second in (0.5, 1.0)
    ]
    resumed, decoder = counted(replace(track, contexts={}))
    chain = Chain(resumed, [(stages, 3) for stages in chains])
    made = [chain.run(stages, 3).latents for stages in chains]
    assert decoder.calls == chain.tree.evaluations < chain.tree.evaluations_alone
    assert uses["tokenizer"] == 3
    assert not chain.states
    assert not chain.kept
    for stages, latents in zip(chains, made, strict=True):
        assert torch.equal(Chain(track, [(stages, 3)]).run(stages, 3).latents, latents)


@pytest.mark.slow
def test_the_whole_sweep_of_28_steps(track: TrackConditions) -> None:
    watched, decoder = counted(track)
    keys = keys_of(sweep(inference_steps=28, cfg_interval_end=1.0))
    chain = Chain(watched, keys)
    covers = [chain.run(*key).latents for key in keys]
    assert decoder.calls == 682
    assert all(
        torch.equal(latents, alone(track, stages[0], seed))
        for latents, (stages, seed) in zip(covers, keys, strict=True)
    )
