"""Layers of the published width give the same bits on any number of threads."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from acestep.autoencoder import ResidualUnit
from acestep.autoencoder_rows import residual_unit
from acestep.conditions import prepare
from acestep.config import BlockConfig, ModelConfig
from acestep.cover import resolve
from acestep.handler import AceStepHandler
from acestep.layers import silu
from acestep.prompt import Prompt
from acestep.setting import CoverSetting
from acestep.stages import Chain, Stage
from acestep.transformer import DiffusionTransformer
from tests.conftest import tone

BLOCK = BlockConfig(2048, 6144, 16, 8, 128, 1e-6, 1e6, (128,))
CONFIG = ModelConfig(BLOCK, BLOCK, 1, 1, 1, 1024, 64, 64, 192, 2, 5, 6, (8,), 750, False, False)

THREADS = (1, 3, 4)  # some that divide no width


def on_threads(run: Callable[[], tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    before, made = torch.get_num_threads(), []
    try:
        for threads in THREADS:
            torch.set_num_threads(threads)
            with torch.inference_mode():
                made.append(run())
    finally:
        torch.set_num_threads(before)
    return made


@pytest.mark.parametrize(
    "frames", [250, 750]
)  # 10 and 30 s: few rows, where the library divides products otherwise
def test_a_layer_of_the_transformer(frames: int) -> None:
    torch.manual_seed(0)
    model = DiffusionTransformer(CONFIG).requires_grad_(False)
    x, context = torch.randn(1, frames, 64), torch.randn(1, frames, 128)

    def run() -> tuple[Tensor, ...]:
        cross = model.cross_attention(torch.ones(1, 221, 2048))
        null = model.null_cross_attention(torch.ones(1, 1, 2048))
        return model.guided(x, context, model.modulation(torch.tensor([0.5])), cross, null)

    first, *others = on_threads(run)
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("channels", [128, 1024])
def test_a_residual_unit_of_the_autoencoder(channels: int) -> None:
    torch.manual_seed(0)
    unit, x = ResidualUnit(channels, 9).requires_grad_(False), torch.randn(1500, channels)

    def run() -> tuple[Tensor]:
        out = torch.empty_like(x)
        residual_unit(x, unit, out)
        return (out,)

    first, *others = on_threads(run)
    assert all(torch.equal(first[0], other[0]) for other in others)


def test_a_cover(base: AceStepHandler) -> None:
    """Of a length whose rows no thread count divides: every part of the built-in model."""
    source = torch.from_numpy(tone(20.5).T.copy())
    setting = CoverSetting(inference_steps=2, audio_cover_strength=0.5)

    def run() -> tuple[Tensor, ...]:
        plan = resolve(setting, is_turbo=False)
        conditions = prepare(base, source, Prompt("jazz, upright bass, brushes, smoky and slow"), [plan])
        stages = (Stage(setting),)
        cover = Chain(conditions, [(stages, 1)]).run(stages, 1)
        return cover.latents, cover.wave

    first, *others = on_threads(run)
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("count", [98_880, 131_072, 480_013])
def test_silu(count: int) -> None:
    x = torch.randn(count) * 3
    first, *others = on_threads(lambda: (silu(x),))
    assert all(torch.equal(first[0], other[0]) for other in others)
    torch.testing.assert_close(first[0], F.silu(x), rtol=1e-6, atol=1e-7)
    assert not silu(torch.tensor([-1e4, -100.0, 0.0])).isnan().any()
