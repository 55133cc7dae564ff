"""The model through torch.compile, for GPUs: what lies between matrix products becomes one kernel.

Off unless asked for, since it costs minutes at the start and rounds in other places. Lengths are symbolic, so a
catalogue of mixed lengths is compiled once; the time is spent before the first track, by ``warm_up``.
"""

import torch

from acestep.constants import MIN_LATENT_FRAMES
from acestep.errors import RequestError
from acestep.model.ace_step import AceStepModel
from acestep.model.autoencoder import Autoencoder
from acestep.model.transformer import ConstantCrossAttention

# Beyond a window and below it, and two of each: one length alone would be taken for constant. The longest first:
# what torch 2.11 compiles for windows after shorter sequences crashes on a CPU.
WARM_UP_FRAMES = (710, 600, MIN_LATENT_FRAMES + 62, MIN_LATENT_FRAMES)


def check_compiled(compiled: bool, device: torch.device, dtype: torch.dtype) -> None:
    """Look at a wish to compile.

    Raises:
        RequestError: the model would run in rows, which are faster and are not compiled.
    """
    if compiled and device.type == "cpu" and dtype != torch.bfloat16:
        raise RequestError(f"compiled true is for GPUs; on device {str(device)!r} in {dtype} leave it out")


def compile_parts(model: AceStepModel, autoencoder: Autoencoder) -> None:
    """Have the transformer's layers and both halves of the autoencoder compiled at their first call."""
    model.decoder.compile_layers()
    for half in (autoencoder.encoder, autoencoder.decoder):
        half.compile(dynamic=True)


@torch.inference_mode()
def warm_up(model: AceStepModel, autoencoder: Autoencoder, null: ConstantCrossAttention) -> None:
    """Run every compiled part, so that no track waits for the compiler.

    Raises:
        RequestError: the compiler cannot work here.
    """
    from torch._dynamo.exc import TorchDynamoException  # a second to import, for who compiles

    try:
        _run_parts(model, autoencoder, null)
    except TorchDynamoException as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RequestError(
            f"compiled true: torch.compile does not work here ({reason}); install a C++ compiler, or leave it out"
        ) from error


def _run_parts(model: AceStepModel, autoencoder: Autoencoder, null: ConstantCrossAttention) -> None:
    decoder, device = model.decoder, null.outputs[0].device
    cross = decoder.cross_attention(model.null_condition_emb.expand(1, 7, -1))
    at = decoder.modulation(torch.tensor([0.5], device=device))
    for frames in WARM_UP_FRAMES:
        x = torch.zeros(1, frames, model.config.latent_channels, device=device)
        context = torch.cat((x, torch.ones_like(x)), dim=-1)
        decoder(x, context, at, cross)
        decoder.guided(x, context, at, cross, null)
        autoencoder.encode(autoencoder.decode(x))
