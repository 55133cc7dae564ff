"""Tiles that grow shorter where the device has too little memory."""

import copy
import logging

import pytest
import torch
from torch import Tensor, nn

from acestep.handler import AceStepHandler
from acestep.model.autoencoder import Autoencoder


class SmallDevice(nn.Module):
    """Runs a module, and from the ``good``-th call on has no memory for inputs beyond ``most`` samples."""

    def __init__(self, module: nn.Module, most: int, good: int = 0):
        super().__init__()
        self.module, self.most, self.good = module, most, good
        self.calls, self.lengths = 0, []

    @property
    def conv2(self) -> nn.Module:
        return self.module.conv2

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > self.good and x.shape[-1] > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        self.lengths.append(x.shape[-1])
        return self.module(x)


def on_small_device(autoencoder: Autoencoder, part: str, most: int, good: int = 0) -> Autoencoder:
    small = copy.copy(autoencoder)
    small._modules = dict(autoencoder._modules)
    small._modules[part] = SmallDevice(getattr(autoencoder, part), most, good)
    return small


LATENTS = torch.randn(1, 200, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("frames", "good", "first"),
    [
        (100, 0, 41),  # one piece, were there memory
        (200, 0, 55),  # tiles of 128 were asked for; those of 64 fit at the edge alone
        (200, 1, 119),  # the first tile was made before memory became short
    ],
)
@torch.inference_mode()
def test_decoding_with_too_little_memory_gives_the_same_waveform(
    base: AceStepHandler, frames: int, good: int, first: int, caplog: pytest.LogCaptureFixture
) -> None:
    small, latents = on_small_device(base.autoencoder, "decoder", most=60, good=good), LATENTS[:, :frames]
    with caplog.at_level(logging.WARNING):
        wave = small.decode(latents, chunk_frames=128)
    whole = base.autoencoder.decode(latents)
    assert (wave - whole).abs().max() < 1e-4 * whole.abs().max()
    assert small.decoder.lengths[0] == first
    assert max(small.decoder.lengths[1:]) <= 60
    assert "out of memory with tiles of" in caplog.text


@torch.inference_mode()
def test_encoding_with_too_little_memory_gives_the_same_latents(base: AceStepHandler) -> None:
    hop = base.autoencoder.hop
    audio = torch.randn(2, 2, 120 * hop + 77, generator=torch.Generator().manual_seed(2)) * 0.1
    small = on_small_device(base.autoencoder, "encoder", most=70 * hop)
    encoded = small.encode(audio)
    assert encoded.shape == (2, 120, 8)
    assert max(small.encoder.lengths) <= 70 * hop
    torch.testing.assert_close(encoded, base.autoencoder.encode(audio), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_no_memory_at_all_is_an_error(base: AceStepHandler) -> None:
    for frames in (200, 60, 20):
        small = on_small_device(base.autoencoder, "decoder", most=0)
        with pytest.raises(torch.OutOfMemoryError):
            small.decode(LATENTS[:, :frames])
        assert small.decoder.calls < 8
