"""The compiled model, on the device at hand."""

import pytest
import torch
from torch._dynamo.utils import counters

from acestep.errors import RequestError
from acestep.handler import AceStepHandler
from tests import miniature


@pytest.mark.slow
@torch.inference_mode()
def test_the_compiled_model_is_as_near_to_float32_as_the_plain_one_at_any_length() -> None:
    exact = AceStepHandler.from_checkpoint(miniature.BASE, device="cpu", dtype="float32")
    plain = AceStepHandler.from_checkpoint(miniature.BASE, device="cpu", dtype="bfloat16")
    compiled = AceStepHandler.from_checkpoint(miniature.BASE, device="cpu", dtype="bfloat16", compiled=True)
    assert compiled.load_s["compiling"] > 0
    graphs = counters["stats"]["unique_graphs"]
    for frames in (128, 700):  # 350 tokens: beyond a window
        x = torch.randn(1, frames, 8, generator=torch.Generator().manual_seed(frames))
        context = torch.cat((x.flip(1), torch.ones_like(x)), dim=-1)
        made = []
        for handler in (exact, plain, compiled):
            decoder = handler.model.decoder
            at = decoder.modulation(torch.tensor([0.7]))
            cross = decoder.cross_attention(
                handler.model.null_condition_emb.repeat(1, 9, 1) * torch.arange(9)[:, None]
            )
            both = decoder.guided(x, context, at, cross, handler.null)
            made.append((*both, handler.autoencoder.decode(x)))
        for reference, uncompiled, fused in zip(*made, strict=True):
            assert (fused - reference).norm() <= 1.2 * (uncompiled - reference).norm()
    assert counters["stats"]["unique_graphs"] == graphs  # no track waits for the compiler


def test_what_runs_in_rows_is_not_compiled() -> None:
    with pytest.raises(RequestError, match="compiled true is for GPUs; on device"):
        AceStepHandler.from_checkpoint(miniature.BASE, device="cpu", compiled=True)
