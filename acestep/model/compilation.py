"""torch.compile for GPUs, which fuses the operations between matrix products.

Off by default, because compilation takes minutes and changes rounding. Lengths are symbolic, so mixed lengths are
compiled once; ``warm_up`` compiles before the first track.
"""

import torch

from acestep.constants import MIN_LATENT_FRAMES
from acestep.errors import RequestError
from acestep.model.ace_step import AceStepModel
from acestep.model.autoencoder import Autoencoder
from acestep.model.transformer_layers import ConstantCrossAttention

# Two lengths above the window and two below, because a single length would be compiled as a constant. Longest
# first: torch 2.11 compiles crashing window code on a CPU after shorter sequences.
WARM_UP_FRAMES = (710, 600, MIN_LATENT_FRAMES + 62, MIN_LATENT_FRAMES)


def check_compiled(compiled: bool, device: torch.device, dtype: torch.dtype) -> None:
    """Check that compilation applies.

    Raises:
        RequestError: the model would use the CPU path, which is faster and is not compiled.
    """
    if compiled and device.type == "cpu" and dtype != torch.bfloat16:
        remedy = f"on device {str(device)!r} in {dtype} leave it out"
        raise RequestError("conflict", "compiled true is for GPUs", remedy)


def compile_parts(model: AceStepModel, autoencoder: Autoencoder) -> None:
    """Mark the transformer's layers and both halves of the autoencoder for compilation at their first call."""
    model.decoder.compile_layers()
    for half in (autoencoder.encoder, autoencoder.decoder):
        half.compile(dynamic=True)


@torch.inference_mode()
def warm_up(model: AceStepModel, autoencoder: Autoencoder, null: ConstantCrossAttention) -> None:
    """Compile every part by running it.

    Raises:
        RequestError: the compiler does not work on this machine.
    """
    from torch._dynamo.exc import TorchDynamoException  # takes a second to import

    try:
        _run_parts(model, autoencoder, null)
    except TorchDynamoException as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        remedy = "install a C++ compiler, or leave it out"
        raise RequestError(
            "conflict", f"compiled true: torch.compile does not work here ({reason})", remedy
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
