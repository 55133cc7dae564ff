"""Our side, on the peer's tensors."""

import copy
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from acestep.checkpoints import diffusers_layout
from acestep.checkpoints.checkpoint import load_autoencoder, published_name
from acestep.checkpoints.folders import CheckpointFolders
from acestep.handler import AceStepHandler
from acestep.language.text_encoder import TextEncoder
from acestep.model.ace_step import AceStepModel
from acestep.model.autoencoder import Autoencoder
from pipeline.benchmark.byte_tokenizer import byte_tokenizer
from pipeline.benchmark.model_sizes import Size


class SharedTextEncoder(TextEncoder):
    """The peer's text encoder with our interface."""

    def __init__(self, model: Any, tokenizer: Tokenizer):
        self.model, self.tokenizer = model, tokenizer


def make_handler(pipeline: Any, size: Size, dtype: torch.dtype) -> AceStepHandler:
    """A handler that shares the weights of a pipeline.

    Only the autoencoder has its own tensors, since it folds weight norm; in bfloat16 so do the modules that stay
    fp32.
    """
    device = pipeline.transformer.device
    model = _model(pipeline, size, dtype)
    with torch.inference_mode():
        null = model.decoder.null_cross_attention(model.null_condition_emb)
    place = Path(size.name)
    return AceStepHandler(
        folders=CheckpointFolders(place, place, place, size.name),
        model=model,
        autoencoder=_autoencoder(pipeline, size, device, dtype),
        text_encoder=SharedTextEncoder(pipeline.text_encoder, byte_tokenizer()),
        silence=pipeline.condition_encoder.silence_latent[0].float(),
        null=null,
        device=device,
        dtype=dtype,
    )


def as_variant(handler: AceStepHandler, turbo: bool) -> AceStepHandler:
    """The same weights with the configuration of a distilled model, or of one that is not."""
    model = copy.copy(handler.model)
    model.config = replace(model.config, is_turbo=turbo)
    return replace(handler, model=model)


def _model(pipeline: Any, size: Size, dtype: torch.dtype) -> AceStepModel:
    tensors = {
        f"{module}/{name}": tensor
        for module in diffusers_layout.CLASSES
        for name, tensor in getattr(pipeline, module).state_dict().items()
    }
    with torch.device("meta"):
        model = AceStepModel(size.model_config)
    names = {name: diffusers_layout.file_name(published_name(name)) for name in model.state_dict()}
    model.load_state_dict({name: tensors[theirs] for name, theirs in names.items()}, assign=True)
    return model.cast(dtype).eval().requires_grad_(False)


def _autoencoder(pipeline: Any, size: Size, device: torch.device, dtype: torch.dtype) -> Autoencoder:
    """Loaded from files like every checkpoint, so that the loader's preparations are measured too."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(size.autoencoder))
        tensors = {key: value.contiguous() for key, value in pipeline.vae.state_dict().items()}
        save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
        return load_autoencoder(folder, device, dtype)
