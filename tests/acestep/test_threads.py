"""The same bits on any number of threads: layers of the published width, covers of the built-in model."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from acestep.audio import resample
from acestep.autoencoder import ResidualUnit
from acestep.autoencoder_rows import residual_unit
from acestep.conditions import prepare
from acestep.config import BlockConfig, ModelConfig
from acestep.cover import resolve
from acestep.handler import AceStepHandler
from acestep.layers import Linear, silu
from acestep.prompt import Prompt
from acestep.setting import CoverSetting
from acestep.stages import Chain, Stage
from acestep.threads import inference, serial_ops, share
from acestep.transformer import DiffusionTransformer
from tests.conftest import tone
from tests.parity.cases import ROUNDING, difference

BLOCK = BlockConfig(2048, 6144, 16, 8, 128, 1e-6, 1e6, (128,))
CONFIG = ModelConfig(BLOCK, BLOCK, 1, 1, 1, 1024, 64, 64, 192, 2, 5, 6, (8,), 750, False, False)

THREADS = (1, 2, 3, 4)  # some that divide no width


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


@pytest.mark.parametrize("shape", [(19, 64, 32), (1, 1024, 3072), (221, 2048, 1000), (7, 6, 1)])
def test_a_linear_map(shape: tuple[int, int, int]) -> None:
    """Few rows are where a matrix library's threads change the sums."""
    torch.manual_seed(0)
    rows, width, out = shape
    linear, x = Linear(width, out).requires_grad_(False), torch.randn(rows, width)
    first, *others = on_threads(lambda: (linear(x),))
    assert all(torch.equal(first[0], other[0]) for other in others)
    assert difference(first[0], F.linear(x.double(), linear.weight.double(), linear.bias.double())) <= ROUNDING


@pytest.mark.parametrize("rate", [44_100, 22_050, 96_000])
def test_resampling(rate: int) -> None:
    wave = torch.from_numpy(tone(20.5, rate).T.copy())
    first, *others = on_threads(lambda: (resample(wave, rate),))
    assert all(torch.equal(first[0], other[0]) for other in others)


def test_sums_over_a_whole_track() -> None:
    """Such as the loudness of a source, or the norm that limits a velocity."""
    x = torch.randn(2_000_003)
    sums = inference(lambda: (x.square().mean(), x.norm()))
    first, *others = on_threads(sums)
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def test_pieces_are_each_worked_once_whoever_takes_them() -> None:
    def run(count: int, threads: int) -> tuple[list[int], set[int], set[int]]:
        taken: list[int] = []
        by, torch_threads = set(), set()

        def work(pieces: Iterator[int]) -> None:
            for piece in pieces:
                by.add(threading.get_ident())
                torch_threads.add(torch.get_num_threads())
                time.sleep(0.01)
                taken.append(piece)

        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            share(work, range(count))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        return sorted(taken), by, torch_threads

    for count, threads in ((0, 2), (1, 4), (7, 1), (7, 3)):
        taken, by, torch_threads = run(count, threads)
        assert taken == list(range(count))
        assert len(by) == min(count, threads)
        assert torch_threads <= {1}


def test_an_error_in_a_piece_is_raised_when_all_have_ended() -> None:
    ended: list[int] = []

    def work(pieces: Iterator[int]) -> None:
        for piece in pieces:
            time.sleep(0.01 * piece)
            ended.append(piece)
            if piece == 1:
                raise ValueError(piece)

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(ValueError, match="1"):
            share(work, range(6))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert set(ended) == set(range(6))


def test_two_python_threads_at_once_leave_the_number_as_it_was() -> None:
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    barrier = threading.Barrier(2)

    def hold() -> None:
        with serial_ops():
            barrier.wait()
            share(lambda pieces: seen.append(len(list(pieces))), range(2))
            barrier.wait()

    try:
        other = threading.Thread(target=hold)
        other.start()
        hold()
        other.join()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("count", [98_880, 131_072, 480_013])
def test_silu(count: int) -> None:
    x = torch.randn(count) * 3
    first, *others = on_threads(lambda: (silu(x),))
    assert all(torch.equal(first[0], other[0]) for other in others)
    torch.testing.assert_close(first[0], F.silu(x), rtol=1e-6, atol=1e-7)
    assert not silu(torch.tensor([-1e4, -100.0, 0.0])).isnan().any()
