"""The same bits on any number of threads: layers of the published width, covers of the built-in model."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchaudio.functional
from torch import Tensor

from acestep.audio.files import resample
from acestep.generation.chain import Chain
from acestep.generation.conditions import prepare
from acestep.generation.stages import Stage
from acestep.handler import AceStepHandler
from acestep.language.prompt import Prompt
from acestep.model import attention, layers
from acestep.model import autoencoder_cpu as autoencoder_rows
from acestep.model import transformer_cpu as transformer_rows
from acestep.model.autoencoder import Decoder, ResidualUnit
from acestep.model.autoencoder_cpu import residual_unit
from acestep.model.config import BlockConfig, ModelConfig
from acestep.model.layers import Linear, silu
from acestep.model.transformer import DiffusionTransformer
from acestep.runtime.threads import columns, inference, serial_ops, share
from acestep.sampling import sampler
from acestep.sampling.plan import resolve
from acestep.sampling.setting import CoverSetting
from tests import miniature
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


def test_what_is_not_cut_runs_on_one_thread(base: AceStepHandler, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[int]] = {}

    def watch(place: Any, name: str) -> None:
        whole = getattr(place, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            seen.setdefault(name, set()).add(torch.get_num_threads())
            return whole(*args, **kwargs)

        monkeypatch.setattr(place, name, watched)

    for place, name in (
        (torch.nn.functional, "conv1d"),
        (torchaudio.functional, "resample"),
        (transformer_rows, "window_attention"),
        (autoencoder_rows, "residual_unit"),
        (sampler, "apg"),
        (layers, "silu"),
    ):
        watch(place, name)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        source = resample(torch.from_numpy(tone(6.0, 44_100).T.copy()), 44_100)
        setting = CoverSetting(inference_steps=2)
        conditions = prepare(base, source, Prompt("jazz"), [resolve(setting, is_turbo=False)])
        Chain(conditions, [((Stage(setting),), 1)]).run((Stage(setting),), 1)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert set(seen) >= {"resample", "window_attention", "residual_unit", "apg", "silu"}
    assert all(threads == {1} for threads in seen.values()), seen


def test_pieces_depend_on_sizes_alone() -> None:
    made = on_threads(lambda: tuple(torch.tensor([part.start, part.stop]) for part in columns(2048, 128)))
    assert all(torch.equal(a, b) for other in made[1:] for a, b in zip(made[0], other, strict=True))
    assert columns(6, 4) == [slice(0, 6)]
    assert columns(1030, 100) == [slice(0, 500), slice(500, 1000), slice(1000, 1030)]
    assert columns(900, 600) == [slice(0, 600), slice(600, 900)]


def test_a_thread_that_is_new_to_torch_while_another_works_gets_all_threads() -> None:
    before, found, by = torch.get_num_threads(), [], set()

    def note(pieces: Iterator[int]) -> None:
        for _ in pieces:
            time.sleep(0.01)
            by.add(threading.get_ident())

    def begin() -> None:
        found.append(torch.get_num_threads())
        share(note, range(6))

    torch.set_num_threads(3)
    try:
        with serial_ops():
            other = threading.Thread(target=begin)
            other.start()
            other.join()
    finally:
        torch.set_num_threads(before)
    assert found == [3]
    assert len(by) == 3


def test_shares_within_a_share_use_no_more_threads() -> None:
    before, by = torch.get_num_threads(), set()

    def inner(pieces: Iterator[int]) -> None:
        for _ in pieces:
            by.add(threading.get_ident())
            time.sleep(0.005)

    def outer(pieces: Iterator[int]) -> None:
        for _ in pieces:
            share(inner, range(4))

    torch.set_num_threads(3)
    try:
        share(outer, range(6))
    finally:
        torch.set_num_threads(before)
    assert len(by) <= 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_shares_among_threads_of_its_own() -> None:
    share(lambda pieces: list(pieces), range(4))  # has a pool, where there are two threads
    child = os.fork()
    if child == 0:
        done: list[int] = []
        torch.set_num_threads(2)
        share(lambda pieces: done.extend(pieces), range(100))
        os._exit(0 if len(done) == 100 else 1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0
            return
        time.sleep(0.05)
    os.kill(child, 9)
    pytest.fail("the child hangs")


def test_a_network_that_is_not_cut_uses_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 nothing is cut, and no bits are promised."""
    handler = AceStepHandler.from_checkpoint(miniature.BASE, device="cpu", dtype="bfloat16")
    seen = set()
    whole = Decoder.in_whole
    monkeypatch.setattr(Decoder, "in_whole", lambda self, x: seen.add(torch.get_num_threads()) or whole(self, x))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with serial_ops():
            handler.autoencoder.decode(torch.zeros(1, 4, handler.autoencoder.config.latent_channels))
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert seen == {3}


@pytest.mark.parametrize("shape", [(1, 1, 700, 700), (2, 1, 1, 700), (2, 4, 700, 700), (700, 700), (1, 4, 1, 700)])
@pytest.mark.parametrize("batch", [2, 33])
def test_attention_in_pieces_is_attention(shape: tuple[int, ...], batch: int) -> None:
    if len(shape) == 4 and shape[0] == 2:
        shape = (batch, *shape[1:])
    length = 700 if batch == 2 else 150
    shape = tuple(length if n == 700 else n for n in shape)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(batch, 4, length, 8, generator=generator)
    k, v = (torch.randn(batch, 2, length, 8, generator=generator) for _ in range(2))
    visible = torch.rand(shape, generator=generator) > 0.3
    assert batch * 4 * length * length > attention.SHARED_PAIRS
    both = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    reference = F.scaled_dot_product_attention(q.double(), *(x.double() for x in both), attn_mask=visible)
    first, *others = on_threads(lambda: (attention.attention(q, k, v, visible),))
    assert difference(first[0], reference) <= ROUNDING
    assert all(torch.equal(first[0], other[0]) for other in others)


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
