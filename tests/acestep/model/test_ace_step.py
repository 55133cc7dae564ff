"""Identities the hot path relies on."""

import pytest
import torch

from acestep.handler import AceStepHandler
from acestep.model.autoencoder import DECODER_OVERLAP_FRAMES, ENCODER_OVERLAP_FRAMES
from tests import miniature


def test_null_branch_needs_no_attention(base: AceStepHandler) -> None:
    """Softmax over copies of one token is uniform: the constant equals real attention over many copies."""
    decoder, null = base.model.decoder, base.model.null_condition_emb
    x, context = torch.randn(1, 61, 8), torch.randn(1, 61, 16)
    with torch.inference_mode():
        modulation = decoder.modulation(torch.tensor([0.7]))
        attended = decoder(x, context, modulation, decoder.cross_attention(null.expand(1, 23, -1)))
        assert (decoder(x, context, modulation, base.null) - attended).abs().max() < 1e-5


def test_modulation_of_a_schedule_is_that_of_its_times(base: AceStepHandler) -> None:
    decoder = base.model.decoder
    times = torch.tensor([1.0, 0.6, 0.1])
    with torch.inference_mode():
        together = decoder.modulation(times)
        for k in range(3):
            alone = decoder.modulation(times[k : k + 1])
            assert torch.allclose(together.at(k).layers, alone.layers, atol=1e-6)
            assert torch.allclose(together.at(k).final, alone.final, atol=1e-6)


@pytest.mark.parametrize("chunk", [32, pytest.param(50, marks=pytest.mark.slow)])
def test_tiles_of_the_receptive_field_are_exact(base: AceStepHandler, chunk: int) -> None:
    vae = base.autoencoder.double()
    try:
        latents = torch.randn(1, 117, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        audio = torch.rand(1, 2, 117 * 1920 + 700, dtype=torch.float64) - 0.5
        with torch.inference_mode():
            whole, means = vae.decode(latents), vae.encode(audio)
            assert means.shape == (1, 117, 8)
            for tail in (0, 700, 960, 1200, 1900):  # the last but one tile may be cut anywhere by the end
                for frames in range(2 * chunk, 2 * chunk + 4):
                    cut = audio[..., : frames * 1920 + tail]
                    assert vae.encode(cut, chunk).shape[1] == frames
            for overlap, exact in ((DECODER_OVERLAP_FRAMES, True), (DECODER_OVERLAP_FRAMES - 1, False)):
                off = (vae.decode(latents, chunk, overlap) - whole).abs().max()
                assert (off < 1e-6) == exact
            for overlap, exact in ((ENCODER_OVERLAP_FRAMES, True), (ENCODER_OVERLAP_FRAMES - 1, False)):
                off = (vae.encode(audio, chunk, overlap) - means).abs().max()
                assert (off < 1e-6) == exact
    finally:
        base.autoencoder.float()


def test_bfloat16_keeps_codes_and_times_exact() -> None:
    """What rounding would amplify runs in fp32 whatever the network runs in."""
    whole = AceStepHandler.from_checkpoint(miniature.BASE, device="cpu", dtype="float32").model
    half = AceStepHandler.from_checkpoint(miniature.BASE, device="cpu", dtype="bfloat16").model
    latents = torch.randn(1, 100, 8)
    with torch.inference_mode():
        assert torch.equal(whole.tokenizer(latents), half.tokenizer(latents))
        changed = {name: tensor for name, tensor in half.state_dict().items() if tensor.dtype == torch.float32}
        assert all(name.startswith(("tokenizer.", "detokenizer.", "decoder.time_embed")) for name in changed)
        embedding = half.decoder.time_embed(torch.tensor([0.9545]))[0]
        assert embedding.dtype == torch.float32
        assert torch.equal(embedding, whole.decoder.time_embed(torch.tensor([0.9545]))[0])


def test_audio_does_not_depend_on_the_number_of_threads(base: AceStepHandler) -> None:
    latents = torch.randn(1, 131, 8, generator=torch.Generator().manual_seed(1))
    audio = 0.3 * torch.randn(1, 2, 131 * 1920, generator=torch.Generator().manual_seed(2))
    before, outcomes = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                outcomes.append((base.autoencoder.decode(latents), base.autoencoder.encode(audio)))
    finally:
        torch.set_num_threads(before)
    for decoded, encoded in outcomes[1:]:
        assert torch.equal(decoded, outcomes[0][0])
        assert torch.equal(encoded, outcomes[0][1])


def test_exact_modules_are_never_rounded() -> None:
    """Also weights that are fp32 in the file, as a fine-tuned checkpoint's may be."""
    import copy

    model = copy.deepcopy(AceStepHandler.from_checkpoint(miniature.BASE, device="cpu").model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1e-4 * torch.randn_like(parameter)
    before = {name: tensor.clone() for name, tensor in model.tokenizer.state_dict().items()}
    model.cast(torch.bfloat16)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.tokenizer.state_dict().items())
    assert model.decoder.proj_in.weight.dtype == torch.bfloat16
