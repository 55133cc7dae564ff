"""Layers of the published width give the same bits on any number of threads."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from acestep.autoencoder import ResidualUnit
from acestep.autoencoder_rows import residual_unit
from acestep.config import BlockConfig, ModelConfig
from acestep.transformer import DiffusionTransformer

BLOCK = BlockConfig(2048, 6144, 16, 8, 128, 1e-6, 1e6, (128,))
CONFIG = ModelConfig(BLOCK, BLOCK, 1, 1, 1, 1024, 64, 64, 192, 2, 5, 6, (8,), 750, False, False)


def on_threads(run: Callable[[], tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
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
