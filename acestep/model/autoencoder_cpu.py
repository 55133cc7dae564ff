"""Cache-blocked CPU implementation of the autoencoder; one sample of all channels is a row.

Computes the same sums as ``acestep.model.autoencoder`` in another order. The intermediate results of a block of
rows stay in a core's cache, and a convolution is one matrix product per tap without gathering inputs. Blocks begin
at fixed rows and each runs on one thread (``acestep.runtime.threads``), so results do not depend on the number of
threads.

Legend: s rows (samples at the level's rate), c channels, k taps of a convolution.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from acestep.runtime.threads import columns, share

if TYPE_CHECKING:
    from acestep.model.autoencoder import Decoder, Encoder, ResidualUnit, Snake

BLOCK_ELEMENTS = 2**17  # half a megabyte of fp32: a block and its result fit in the L2 cache
WIDE_COLUMNS = 1024  # columns per piece of a strided convolution, which has few rows to distribute
MIN_ROWS = 512  # with fewer rows, packing the weights dominates a product


def lay_out(model: nn.Module) -> None:
    """Store convolution weights contiguously per tap, to avoid gathering them for each block; shapes stay."""
    for module in model.modules():
        if isinstance(module, nn.Conv1d):
            module.weight.data = module.weight.data.permute(2, 1, 0).contiguous().permute(2, 1, 0)
        elif isinstance(module, nn.ConvTranspose1d):
            module.weight.data = module.weight.data.permute(0, 2, 1).contiguous().permute(0, 2, 1)


def decode_rows(decoder: "Decoder", latents: Tensor) -> Tensor:
    """Latents ``[t, c]`` -> waveform ``[1920 t, a]``."""
    x = convolved(latents, decoder.conv1)
    for block in decoder.blocks:
        x = upsampled(x, block.snake1, block.conv_t1)
        x = _three_units(x, (block.res_unit1, block.res_unit2, block.res_unit3))
    return narrowed(x, decoder.snake1, decoder.conv2)


def encode_rows(encoder: "Encoder", audio: Tensor) -> Tensor:
    """Waveform ``[s, a]`` -> the posterior's mean and scale ``[t, 2c]``."""
    x = convolved(audio, encoder.conv1)
    for block in encoder.blocks:
        x = _three_units(x, (block.res_unit1, block.res_unit2, block.res_unit3))
        x = downsampled(x, block.snake1, block.conv1)
    return convolved(x, encoder.conv2, encoder.snake1)


def _three_units(x: Tensor, units: "tuple[ResidualUnit, ResidualUnit, ResidualUnit]") -> Tensor:
    """Apply three residual units using two buffers; ``x`` may be overwritten.

    Units whose last convolution is zero are skipped. In the built-in model these would be most of the work.
    """
    other = torch.empty_like(x)
    for unit in units:
        if unit.conv2.weight.any() or _bias(unit.conv2).any():
            residual_unit(x, unit, other)
            x, other = other, x
    return x


def residual_unit(x: Tensor, unit: "ResidualUnit", out: Tensor) -> None:
    """``x + conv2(snake2(conv1(snake1(x))))`` of rows ``[s, c]``, written to ``out``.

    Exact: a block also reads the ``3 * dilation`` rows on both sides that its convolution covers.
    """
    reach = 3 * unit.conv1.dilation[0]
    taps = unit.conv1.weight.permute(2, 1, 0)
    pointwise = unit.conv2.weight[:, :, 0].T
    first, second = _snake_factors(unit.snake1), _snake_factors(unit.snake2)
    rows = block_rows(x.shape[1])

    def some_blocks(starts: Iterator[int]) -> None:
        wide, hidden = x.new_empty(rows + 2 * reach, x.shape[1]), x.new_empty(rows, x.shape[1])
        scratch = torch.empty_like(hidden)
        for start in starts:
            stop = min(start + rows, len(x))
            n = stop - start
            around = _snake_around(x, start - reach, stop + reach, first, wide)
            y = _add_taps(around, taps, unit.conv1.bias, unit.conv1.dilation[0], hidden[:n])
            _snake(y, second, scratch[:n], y)
            torch.addmm(x[start:stop], y, pointwise, out=out[start:stop]).add_(_bias(unit.conv2))

    share(some_blocks, range(0, len(x), rows))


def convolved(x: Tensor, conv: nn.Conv1d, snake: "Snake | None" = None) -> Tensor:
    """A convolution of stride 1 and "same" padding of ``x`` or ``snake(x)``."""
    taps = conv.weight.permute(2, 1, 0)
    reach = cast(int, conv.padding[0])
    factors = None if snake is None else _snake_factors(snake)
    out = x.new_empty(len(x), conv.out_channels)
    rows = block_rows(max(x.shape[1], conv.out_channels))

    def some_blocks(starts: Iterator[int]) -> None:
        wide = x.new_empty(rows + 2 * reach, x.shape[1])
        for start in starts:
            stop = min(start + rows, len(x))
            around = _snake_around(x, start - reach, stop + reach, factors, wide)
            _add_taps(around, taps, conv.bias, 1, out[start:stop])

    share(some_blocks, range(0, len(x), rows))
    return out


def narrowed(x: Tensor, snake: "Snake", conv: nn.Conv1d) -> Tensor:
    """``convolved`` for few output channels: one product computes all taps, which are then added.

    One narrow product per tap would read ``x`` once for each.
    """
    taps = conv.weight.permute(2, 1, 0)
    k, channels, few = taps.shape
    side_by_side = taps.transpose(0, 1).reshape(channels, k * few)
    reach = cast(int, conv.padding[0])
    factors = _snake_factors(snake)
    out = x.new_empty(len(x), few)
    rows = block_rows(channels)

    def some_blocks(starts: Iterator[int]) -> None:
        wide = x.new_empty(rows + 2 * reach, channels)
        for start in starts:
            stop = min(start + rows, len(x))
            around = _snake_around(x, start - reach, stop + reach, factors, wide)
            shares = (around @ side_by_side).unflatten(1, (k, few))
            total = out[start:stop]
            total.copy_(shares[: stop - start, 0])
            for tap in range(1, k):
                total += shares[tap : tap + stop - start, tap]
            if conv.bias is not None:
                total += conv.bias

    share(some_blocks, range(0, len(x), rows))
    return out


def upsampled(x: Tensor, snake: "Snake", conv: nn.ConvTranspose1d) -> Tensor:
    """A transposed convolution of kernel 2s and stride s of ``snake(x)``: every output has two taps.

    Output row t * s + j is tap j of input row t plus tap j + s of row t - 1. The s outputs of a t are adjacent, so
    both terms are plain matrix products.
    """
    stride, crop = conv.stride[0], cast(int, conv.padding[0])
    taps = conv.weight.permute(0, 2, 1).reshape(conv.in_channels, 2, stride * conv.out_channels)
    own, previous = taps.unbind(1)
    bias = _bias(conv).repeat(stride)
    factors = _snake_factors(snake)
    out = x.new_empty(len(x) + 1, stride * conv.out_channels)
    rows = block_rows(x.shape[1])

    def some_blocks(pieces: Iterator[tuple[int, slice]]) -> None:
        wide, ready = x.new_empty(rows + 1, x.shape[1]), -1
        for start, part in pieces:
            stop = min(start + rows, len(x) + 1)
            if start != ready:
                around, ready = _snake_around(x, start - 1, stop, factors, wide), start
            torch.addmm(bias[part], around[1:], own[:, part], out=out[start:stop, part])
            out[start:stop, part].addmm_(around[:-1], previous[:, part])

    share(some_blocks, _pieces(len(x) + 1, rows, out.shape[1]))
    samples = out.view(-1, conv.out_channels)
    return samples[crop : len(samples) - crop]


def downsampled(x: Tensor, snake: "Snake", conv: nn.Conv1d) -> Tensor:
    """A convolution of kernel 2s and stride s of ``snake(x)``: s rows side by side, then two taps."""
    stride, pad = conv.stride[0], cast(int, conv.padding[0])
    taps = conv.weight.permute(2, 1, 0).reshape(2, stride * conv.in_channels, conv.out_channels)
    factors = _snake_factors(snake)
    length = (len(x) + 2 * pad - 2 * stride) // stride + 1
    out = x.new_empty(length, conv.out_channels)
    rows = block_rows(conv.out_channels)

    def some_blocks(pieces: Iterator[tuple[int, slice]]) -> None:
        wide, ready = x.new_empty((rows + 1) * stride, x.shape[1]), -1
        for start, part in pieces:
            stop = min(start + rows, length)
            if start != ready:
                around = _snake_around(x, start * stride - pad, (stop + 1) * stride - pad, factors, wide)
                side_by_side, ready = around.view(-1, stride * conv.in_channels), start
            _add_taps(side_by_side, taps[:, :, part], _bias(conv)[part], 1, out[start:stop, part])

    share(some_blocks, _pieces(length, rows, out.shape[1]))
    return out


def _pieces(length: int, rows: int, width: int) -> list[tuple[int, slice]]:
    """(First row, columns) of each piece of a wide product; pieces of the same rows are adjacent."""
    return [(start, part) for start in range(0, length, rows) for part in columns(width, size=WIDE_COLUMNS)]


def block_rows(channels: int) -> int:
    return max(MIN_ROWS, BLOCK_ELEMENTS // channels)


def _add_taps(x: Tensor, taps: Tensor, bias: Tensor | None, dilation: int, out: Tensor) -> Tensor:
    """A convolution without padding: the sum over taps k of ``x[k * dilation :] @ taps[k]``, plus the bias."""
    n = len(out)
    if bias is None:
        torch.mm(x[:n], taps[0], out=out)
    else:
        torch.addmm(bias, x[:n], taps[0], out=out)
    for k in range(1, len(taps)):
        out.addmm_(x[k * dilation : k * dilation + n], taps[k])
    return out


def _snake_around(
    x: Tensor, start: int, stop: int, factors: tuple[Tensor, Tensor] | None, buffer: Tensor
) -> Tensor:
    """Rows ``start .. stop`` of ``snake(x)`` (of ``x`` without factors), zero-padded, in ``buffer``."""
    left, right = max(start, 0), min(stop, len(x))
    around = buffer[: stop - start]
    around[: left - start].zero_()
    around[right - start :].zero_()
    inner = around[left - start : right - start]
    if factors is None:
        inner.copy_(x[left:right])
    else:
        _snake(x[left:right], factors, inner, inner)
    return around


def _snake(x: Tensor, factors: tuple[Tensor, Tensor], scratch: Tensor, out: Tensor) -> None:
    """Snake activation of a block; ``scratch`` may be ``out`` unless that is ``x``."""
    alpha, inverse_beta = factors
    torch.mul(x, alpha, out=scratch).sin_().square_()
    torch.addcmul(x, scratch, inverse_beta, out=out)


def _snake_factors(snake: "Snake") -> tuple[Tensor, Tensor]:
    return snake.alpha[0, :, 0].exp(), 1 / (snake.beta[0, :, 0].exp() + 1e-9)


def _bias(conv: nn.Conv1d | nn.ConvTranspose1d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
