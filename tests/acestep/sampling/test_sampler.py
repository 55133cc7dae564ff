"""Trajectories: the number of evaluations, the noise, and what a setting does to them."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from acestep.generation.conditions import TrackConditions, prepare
from acestep.handler import AceStepHandler
from acestep.language.prompt import Prompt
from acestep.sampling.plan import resolve
from acestep.sampling.sampler import denoise, fresh_noise, initial_noise, rotate_noise
from acestep.sampling.setting import CoverSetting, parse_setting
from tests.conftest import tone

FEW = CoverSetting(inference_steps=4, guidance_scale=5.0)
EDIT = {"flow_edit_morph": True, "flow_edit_source_caption": "country"}


class Counter:
    """A transformer that counts its evaluations."""

    def __init__(self, transformer: Any):
        self.transformer, self.calls = transformer, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transformer, name)

    def __call__(self, *given: Any) -> Tensor:
        self.calls += 1
        return self.transformer(*given)

    def guided(self, *given: Any) -> tuple[Tensor, Tensor]:
        self.calls += 2
        return self.transformer.guided(*given)


@pytest.fixture(scope="module")
def track(base: AceStepHandler) -> TrackConditions:
    wave = torch.from_numpy(tone(6.0).T.copy())
    return prepare(base, wave, Prompt("metal", "la"), [resolve(FEW, False)])


def run(track: TrackConditions, seed: int = 3, **values: object) -> Tensor:
    handler = track.handler
    plan = resolve(parse_setting(values, FEW), handler.is_turbo)
    return denoise(handler.model.decoder, handler.null, [track.trajectory(plan, seed)])[0]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"blend": "velocity"},
        {"blend": "embed"},
        {"cover_noise_strength": 0.5},
        {"infer_method": "sde"},
        {"sampler_mode": "heun"},
        {"sampler_mode": "heun", "blend": "velocity", "cfg_interval_end": 0.3},
        {**EDIT, "flow_edit_n_min": 0.3, "flow_edit_n_max": 0.8, "flow_edit_n_avg": 3},
    ],
    ids=str,
)
def test_the_plan_says_how_often_the_network_runs(track: TrackConditions, values: dict) -> None:
    plan = resolve(parse_setting(values, FEW), False)
    counter = Counter(track.handler.model.decoder)
    denoise(counter, track.handler.null, [track.trajectory(plan, 3)])
    assert counter.calls == plan.evaluations


@pytest.mark.parametrize("values", [{"infer_method": "sde"}, EDIT], ids=["sde", "flow_edit"])
def test_fresh_noise_belongs_to_the_seed_whatever_the_batch(track: TrackConditions, values: dict) -> None:
    handler, plan = track.handler, resolve(parse_setting(values, FEW), False)
    alone = run(track, seed=4, **values)
    assert torch.equal(alone, run(track, seed=4, **values))
    batch = denoise(handler.model.decoder, handler.null, [track.trajectory(plan, seed) for seed in (3, 4, 5)])
    assert torch.equal(batch[1], alone)
    assert not torch.equal(batch[0], alone)


def test_noises_are_standard_normal_and_unrelated() -> None:
    noises = [
        initial_noise(7, 2000, 8),
        *(fresh_noise(7, k, 2000, 8) for k in range(4)),
        fresh_noise(8, 0, 2000, 8),
    ]
    for i, one in enumerate(noises):
        assert abs(one.mean()) < 0.05
        assert abs(one.std() - 1) < 0.05
        for other in noises[:i]:
            assert abs((one * other).mean()) < 0.05
    assert torch.equal(fresh_noise(7, 2, 2000, 8), noises[3])


def test_retake_turns_one_noise_into_another(track: TrackConditions) -> None:
    one, other = initial_noise(1, 500, 8), initial_noise(2, 500, 8)
    assert torch.equal(rotate_noise(one, other, 0.0), one)
    assert torch.allclose(rotate_noise(one, other, 1.0), other, atol=1e-6)
    assert torch.allclose(rotate_noise(one, other, 0.5), (one + other) / math.sqrt(2), atol=1e-6)
    whole = run(track, seed=3, retake_variance=1.0, retake_seed=9)
    assert torch.allclose(whole, run(track, seed=9), atol=1e-3)


def test_cover_noise_starts_between_noise_and_source(track: TrackConditions) -> None:
    plan = resolve(parse_setting({"cover_noise_strength": 0.6}, FEW), False)
    trajectory = track.trajectory(plan, seed=3)
    t = plan.t_start
    assert t is not None
    noise = initial_noise(3, *trajectory.start.shape[1:])
    assert torch.allclose(trajectory.start, t * noise + (1 - t) * track.latents)
    closer = [(run(track, cover_noise_strength=c) - track.latents).square().mean() for c in (0.0, 0.6, 1.0)]
    assert closer == sorted(closer, reverse=True)


def test_a_limited_velocity_moves_less(track: TrackConditions) -> None:
    start = track.trajectory(resolve(FEW, False), 3).start
    free, held = run(track), run(track, velocity_norm_threshold=0.01)
    assert (held - start).norm() < 0.02 * start.norm() < (free - start).norm()


def test_flow_edit_between_equal_words_leaves_the_source_alone(track: TrackConditions) -> None:
    """The two sides see the same words, so the edit's velocity is zero all along."""
    same = {"flow_edit_morph": True, "flow_edit_source_caption": "metal"}
    assert torch.allclose(run(track, **same), track.latents, atol=1e-4)
    assert not torch.allclose(run(track, **EDIT), track.latents, atol=1e-2)
