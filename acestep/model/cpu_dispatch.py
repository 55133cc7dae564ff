"""Selection of the CPU implementations ``acestep.model.transformer_cpu`` and ``acestep.model.autoencoder_cpu``."""

import torch
from torch import Tensor, nn


def works_in_rows(module: nn.Module, *inputs: Tensor) -> bool:
    """Whether to use the CPU implementation: on a CPU, in fp32 or fp64, without gradients."""
    first = inputs[0]
    if first.device.type != "cpu" or first.dtype not in (torch.float32, torch.float64):
        return False
    if not torch.is_grad_enabled():
        return True
    return not any(tensor.requires_grad for tensor in (*inputs, *module.parameters()))
