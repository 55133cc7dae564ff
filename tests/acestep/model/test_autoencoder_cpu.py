"""Rows against the layers as torch has them."""

import copy

import pytest
import torch
from diffusers import AutoencoderOobleck

from acestep.handler import AceStepHandler
from acestep.model.autoencoder import Autoencoder, fold_weight_norm
from acestep.model.autoencoder_cpu import block_rows, lay_out
from acestep.model.config import AutoencoderConfig
from tests.parity.cases import ROUNDING, difference


def autoencoder(ratios: tuple[int, ...] = (2, 3, 5), channels: int = 24) -> Autoencoder:
    """Random weights, strides odd and even, widths that fill no vector."""
    torch.manual_seed(7)
    config = AutoencoderConfig(
        audio_channels=2,
        encoder_channels=channels,
        decoder_channels=channels,
        latent_channels=6,
        multiples=(1, 2, 4),
        ratios=ratios,
        sample_rate=48_000,
    )
    model = Autoencoder(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter) / max(parameter[0].numel(), 1) ** 0.5
    return model


@pytest.mark.parametrize("frames", [1, 2, 37, 400])  # less than a block, and several with a rest
@torch.inference_mode()
def test_rows_equal_the_layers(frames: int) -> None:
    model = autoencoder().double()
    latents = torch.randn(2, 6, frames, dtype=torch.float64)
    audio = torch.randn(2, 2, frames * model.hop + 11, dtype=torch.float64)
    assert 400 * model.hop > 2 * block_rows(24)
    for part, x in ((model.decoder, latents), (model.encoder, audio)):
        torch.testing.assert_close(part(x), part.in_whole(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "zero", [("res_unit1",), ("res_unit2", "res_unit3"), ("res_unit1", "res_unit2", "res_unit3")]
)
@torch.inference_mode()
def test_units_that_add_nothing_may_be_left_out(zero: tuple[str, ...]) -> None:
    model = autoencoder().double()
    for block in (*model.encoder.blocks, *model.decoder.blocks[1:]):
        for name in zero:
            for tensor in block.get_submodule(name).conv2.parameters():
                tensor.zero_()
    latents = torch.randn(1, 6, 37, dtype=torch.float64)
    audio = torch.randn(1, 2, 37 * model.hop, dtype=torch.float64)
    for part, x in ((model.decoder, latents), (model.encoder, audio)):
        torch.testing.assert_close(part(x), part.in_whole(x), rtol=1e-10, atol=1e-12)
    bias_alone = model.encoder.blocks[0].get_submodule(zero[0]).conv2.bias
    bias_alone.fill_(0.1)
    torch.testing.assert_close(model.encoder(audio), model.encoder.in_whole(audio), rtol=1e-10, atol=1e-12)


@torch.inference_mode()
def test_the_layout_of_the_weights_is_no_part_of_the_result() -> None:
    model = autoencoder()
    laid_out = copy.deepcopy(model)
    lay_out(laid_out)
    state = laid_out.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    latents, audio = torch.randn(1, 6, 50), torch.randn(1, 2, 900)
    assert difference(laid_out.decoder(latents), model.decoder(latents)) <= ROUNDING
    assert difference(laid_out.encoder(audio), model.encoder(audio)) <= ROUNDING


@torch.inference_mode()
def test_a_row_of_a_batch_is_what_it_is_alone() -> None:
    model = autoencoder()
    latents = torch.randn(3, 40, 6)
    together = model.decode(latents)
    assert all(torch.equal(together[k : k + 1], model.decode(latents[k : k + 1])) for k in range(3))


@pytest.mark.parametrize("chunk", [19, 20, 33, 100])
@torch.inference_mode()
def test_any_tile_gives_the_untiled_result_to_rounding(base: AceStepHandler, chunk: int) -> None:
    latents = torch.randn(1, 70, 8)
    audio = 0.2 * torch.randn(1, 2, 70 * 1920)
    whole, means = base.autoencoder.decode(latents), base.autoencoder.encode(audio)
    assert difference(base.autoencoder.decode(latents, chunk), whole) <= ROUNDING
    assert difference(base.autoencoder.encode(audio, chunk), means) <= ROUNDING


@torch.inference_mode()
def test_bfloat16_on_a_cpu_is_as_far_from_float32_as_the_peers(base: AceStepHandler) -> None:
    ours = base.autoencoder
    config = ours.config
    peer = AutoencoderOobleck(
        encoder_hidden_size=config.encoder_channels,
        downsampling_ratios=list(config.ratios),
        channel_multiples=list(config.multiples),
        decoder_channels=config.decoder_channels,
        decoder_input_channels=config.latent_channels,
        audio_channels=config.audio_channels,
        sampling_rate=config.sample_rate,
    ).eval()
    weights = {
        name.replace("parametrizations.weight.original", "weight_")
        .replace("weight_0", "weight_g")
        .replace("weight_1", "weight_v"): tensor
        for name, tensor in peer.state_dict().items()
    }
    ours = copy.deepcopy(ours)
    ours.load_state_dict(fold_weight_norm(weights))
    latents = torch.randn(1, 40, config.latent_channels)
    exact = ours.decode(latents)
    torch.testing.assert_close(exact, peer.decode(latents.transpose(1, 2)).sample, rtol=1e-4, atol=1e-5)
    theirs = peer.bfloat16().decode(latents.transpose(1, 2).bfloat16()).sample.float()
    halved = ours.bfloat16().decode(latents)
    assert (halved - exact).norm() <= 1.1 * (theirs - exact).norm()


def test_what_is_to_be_differentiated_goes_through_the_layers() -> None:
    model, latents = autoencoder(), torch.randn(1, 20, 6, requires_grad=True)
    model.decode(latents).square().mean().backward()
    assert latents.grad is not None
    model.decoder.conv1.weight.requires_grad_(True)
    model.decode(latents.detach()).square().mean().backward()
    assert model.decoder.conv1.weight.grad is not None
