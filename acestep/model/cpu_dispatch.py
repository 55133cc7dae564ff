"""When a network works in rows: see ``acestep.model.transformer_cpu`` and ``acestep.model.autoencoder_cpu``."""

import torch
from torch import Tensor, nn


def works_in_rows(module: nn.Module, *inputs: Tensor) -> bool:
    """Whether inputs are for rows: on a CPU, in a dtype that is precise enough, and not to be differentiated."""
    first = inputs[0]
    if first.device.type != "cpu" or first.dtype not in (torch.float32, torch.float64):
        return False
    if not torch.is_grad_enabled():
        return True
    return not any(tensor.requires_grad for tensor in (*inputs, *module.parameters()))
