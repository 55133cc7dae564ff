"""Replay cases of a LoRA adapter: the transformer's forward with the adapter merged."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from acestep.checkpoints.checkpoint import load_model
from tests.parity.cases import CPU, Case, Golden, compare


def adapter_cases(golden: Golden) -> Iterator[Case]:
    """Cases of every ``lora_<model>.safetensors`` whose model and adapter are there."""
    adapter = golden.folder / "lora"
    for name, folder in golden.named("lora_*.safetensors") if adapter.is_dir() else ():
        reference, inputs = golden.tensors(f"lora_{name}"), golden.tensors(f"dit_{name}")
        scale = float(golden.metadata(f"lora_{name}")["scale"])
        outputs = [key for key in reference if key.endswith(".out")]
        compute = partial(_velocities, folder, adapter, scale, inputs, [key.split(".")[0] for key in outputs])
        yield from compare(f"lora_{name}", compute, reference, outputs)


def _velocities(
    folder: Path, adapter: Path, scale: float, inputs: dict[str, Tensor], cases: list[str]
) -> dict[str, Tensor]:
    transformer = load_model(folder, CPU, torch.float32, adapter=adapter, adapter_scale=scale).decoder
    outputs = {}
    for case in cases:
        own = {k.removeprefix(f"{case}."): v for k, v in inputs.items() if k.startswith(f"{case}.")}
        modulation = transformer.modulation(own["t"], own["r"])
        cross = transformer.cross_attention(own["encoder_hidden_states"])
        outputs[f"{case}.out"] = transformer(own["x"], own["context_latents"], modulation, cross)
    return outputs
