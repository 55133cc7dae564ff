"""The transformer's fast paths against its plain layers, and window attention against a dense mask."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from acestep.model import attention
from acestep.model import transformer_cpu as transformer_rows
from acestep.model.attention import window_attention
from acestep.model.config import BlockConfig, ModelConfig
from acestep.model.layers import positions
from acestep.model.transformer import DiffusionTransformer
from acestep.model.transformer_layers import CrossAttention, Modulation

WINDOW = 128
BLOCK = BlockConfig(64, 96, 4, 2, 16, 1e-6, 1e6, (WINDOW, None, WINDOW))
CONFIG = ModelConfig(BLOCK, BLOCK, 1, 1, 1, 16, 8, 8, 24, 2, 5, 6, (8,), 750, False, False)


@pytest.fixture(scope="module")
def transformer() -> DiffusionTransformer:
    """Three layers, every weight drawn, whatever it begins as."""
    model, generator = DiffusionTransformer(CONFIG), torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        spread = 0.3 if "norm" in name or "table" in name else 2 * parameter.shape[-1] ** -0.5
        drawn = spread * torch.randn(parameter.shape, generator=generator)
        parameter.data = drawn + (1 if "norm" in name else 0)
    return model.requires_grad_(False)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def near(ours: Tensor, reference: Tensor, tolerance: float = 1e-5) -> bool:
    """Equal to rounding, relative to the largest value."""
    return bool((ours - reference).abs().max() <= tolerance * reference.abs().max())


def velocities(model: DiffusionTransformer, frames: int, rows: int = 1) -> tuple[Tensor, ...]:
    """The two velocities of a guided call, then those of two calls; each row has a time of its own."""
    cross = model.cross_attention(noise(3, rows, 19, 64))
    modulation = model.modulation(torch.tensor([0.9, 0.4])[:rows])
    return evaluate(model, noise(1, rows, frames, 8), noise(2, rows, frames, 16), modulation, cross)


def evaluate(
    model: DiffusionTransformer, x: Tensor, context: Tensor, modulation: Modulation, cross: CrossAttention
) -> tuple[Tensor, ...]:
    null = model.null_cross_attention(noise(4, 1, 1, 64))
    guided = model.guided(x, context, modulation, cross, null)
    return *guided, model(x, context, modulation, cross), model(x, context, modulation, null)


# Multiples of a block and one more or less; a window that covers all but one pair; one that covers all.
@pytest.mark.parametrize("block", [attention.CPU_BLOCK, 1024])
@pytest.mark.parametrize(("length", "window"), [(1, 3), (64, 62), (65, 64), (129, 127), (385, 128), (700, 5)])
def test_window_attention_is_dense_attention_under_a_mask(
    monkeypatch: pytest.MonkeyPatch, block: int, length: int, window: int
) -> None:
    monkeypatch.setattr(attention, "CPU_BLOCK", block)
    q, k, v = noise(1, 2, 4, length, 8), noise(2, 2, 2, length, 8), noise(3, 2, 2, length, 8)
    index = torch.arange(length)

    def dense(reach: int) -> Tensor:
        visible = (index[:, None] - index).abs() <= reach
        both = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        return F.scaled_dot_product_attention(q, *both, attn_mask=visible)

    out = window_attention(q, k, v, window)
    assert near(out, dense(window))
    assert length == 1 or not near(out, dense(window - 1), 1e-3)
    assert window >= length - 1 or not near(out, dense(window + 1), 1e-3)


# 1 and 3 tokens, a window and one more, several products per sequence of which the last is short.
@pytest.mark.parametrize("frames", [1, 6, 2 * WINDOW + 2, 2 * WINDOW + 3, 1201])
@pytest.mark.parametrize("block", [transformer_rows.BLOCK, 150])
def test_rows_give_what_the_layers_give(
    transformer: DiffusionTransformer, monkeypatch: pytest.MonkeyPatch, frames: int, block: int
) -> None:
    monkeypatch.setattr(transformer_rows, "BLOCK", block)
    in_rows = velocities(transformer, frames)
    monkeypatch.setattr("acestep.model.transformer.works_in_rows", lambda *_: False)
    for ours, reference in zip(in_rows, velocities(transformer, frames), strict=True):
        assert reference.std() > 0.1
        assert near(ours, reference)


@pytest.mark.parametrize("in_rows", [True, False])
def test_a_guided_call_is_two_calls(
    transformer: DiffusionTransformer, monkeypatch: pytest.MonkeyPatch, in_rows: bool
) -> None:
    monkeypatch.setattr("acestep.model.transformer.works_in_rows", lambda *_: in_rows)
    conditional, unconditional, first, second = velocities(transformer, 301, rows=2)
    assert near(conditional, first)
    assert near(unconditional, second)
    assert not near(first, second, 0.1)


def test_rows_of_a_batch_are_what_they_are_alone(transformer: DiffusionTransformer) -> None:
    x, context, cross = noise(1, 2, 301, 8), noise(2, 2, 301, 16), transformer.cross_attention(noise(3, 2, 19, 64))
    modulation = transformer.modulation(torch.tensor([0.9, 0.4]))
    together = evaluate(transformer, x, context, modulation, cross)
    for i in range(2):
        only = slice(i, i + 1)
        alone = evaluate(transformer, x[only], context[only], modulation.row(i), cross.row(i))
        assert all(torch.equal(a[only], b) for a, b in zip(together, alone, strict=True))


def test_velocities_do_not_depend_on_the_number_of_threads(transformer: DiffusionTransformer) -> None:
    before, outcomes = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outcomes.append(velocities(transformer, 1201))
    finally:
        torch.set_num_threads(before)
    for other in outcomes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outcomes[0], other, strict=True))


class Largest(TorchDispatchMode):
    """Keeps the number of elements of the largest tensor that any operation made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple) else (made,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.mark.parametrize("in_rows", [True, False])
def test_nothing_grows_with_the_square_of_the_length(
    transformer: DiffusionTransformer, monkeypatch: pytest.MonkeyPatch, in_rows: bool
) -> None:
    monkeypatch.setattr("acestep.model.transformer.works_in_rows", lambda *_: in_rows)
    length = 2000
    with Largest() as largest:
        velocities(transformer, 2 * length)
    assert largest.elements < length**2 / 10
    with Largest() as largest:
        q = torch.zeros(1, 1, length, 1)
        F.scaled_dot_product_attention(q, q, q, attn_mask=torch.ones(length, length, dtype=torch.bool))
    assert largest.elements == length**2  # the measure sees masks


def test_what_is_to_be_differentiated_goes_through_the_layers(transformer: DiffusionTransformer) -> None:
    x, cross = noise(1, 1, 61, 8).requires_grad_(), transformer.cross_attention(noise(3, 1, 19, 64))
    modulation = transformer.modulation(torch.tensor([0.9]))
    conditional, *_ = evaluate(transformer, x, noise(2, 1, 61, 16), modulation, cross)
    conditional.square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().min() > 0


def test_bfloat16_is_close(transformer: DiffusionTransformer) -> None:
    coarse = copy.deepcopy(transformer).to(torch.bfloat16)
    for embedding in (coarse.time_embed, coarse.time_embed_r):
        embedding.float()
    for ours, reference in zip(velocities(coarse, 301), velocities(transformer, 301), strict=True):
        assert ours.dtype == torch.float32
        assert near(ours, reference, 0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("error:flex_attention called without")
@torch.inference_mode()
def test_compiled_layers_give_what_the_layers_give(
    transformer: DiffusionTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acestep.model.transformer.works_in_rows", lambda *_: False)
    compiled, graphs = copy.deepcopy(transformer), []
    compiled.compile_layers()
    torch._dynamo.utils.counters.clear()
    positions.cache_clear()  # tables made outside of inference mode are of another kind to the compiler
    for frames in (601, 61, 901, 1203, 63):
        for ours, reference in zip(velocities(compiled, frames), velocities(transformer, frames), strict=True):
            assert near(ours, reference)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert 0 < graphs[0] < graphs[1]  # without windows, since the second is shorter than one
    assert graphs[1:] == graphs[1:2] * 4, "a length is compiled anew"


def test_one_condition_serves_all_rows_of_a_batch(transformer: DiffusionTransformer) -> None:
    x, context, cross = noise(1, 2, 50, 8), noise(2, 2, 50, 16), transformer.cross_attention(noise(3, 1, 19, 64))
    modulation = transformer.modulation(torch.tensor([0.5]))
    with torch.inference_mode():
        together = transformer(x, context, modulation, cross)
        alone = [transformer(x[i : i + 1], context[i : i + 1], modulation, cross) for i in range(2)]
    assert torch.equal(together, torch.cat(alone))


def test_a_trainable_weight_is_reached(transformer: DiffusionTransformer) -> None:
    trained = copy.deepcopy(transformer)
    weight = trained.blocks[1].self_attn.q_proj.weight.requires_grad_(True)
    cross, modulation = trained.cross_attention(noise(3, 1, 19, 64)), trained.modulation(torch.tensor([0.5]))
    trained(noise(1, 1, 50, 8), noise(2, 1, 50, 16), modulation, cross).square().mean().backward()
    assert weight.grad is not None
