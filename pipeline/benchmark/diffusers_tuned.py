"""The peer with diffusers' own optimizations: an attention backend, compilation, a tiled autoencoder."""

from dataclasses import dataclass
from typing import Any

import torch
import torch._dynamo
from diffusers.models.attention_dispatch import attention_backend
from torch import nn
from torch._dynamo.utils import counters

from pipeline.benchmark.diffusers_side import assemble, make_transformer, make_vae
from pipeline.benchmark.model_sizes import Size

# Fastest first. Flash attention applies windows itself, the others read a dense mask. On a CPU "flex", which
# diffusers does not compile, takes 1.6 times as long as "native", and no other backend reads the mask.
BACKENDS = {"cuda": ("flash", "flash_hub", "_native_cudnn", "native"), "cpu": ("native",)}
PROBED_FRAMES = 320  # more tokens than a window has
RECOMPILE_LIMIT = 64  # variants of a function; beyond torch's default of eight, functions run uncompiled
PARTLY_EAGER = "tuned, in part uncompiled (recompile limit)"


@dataclass(frozen=True)
class Tuned:
    """The tuned pipeline, with notes on the optimizations in use."""

    pipeline: Any
    notes: tuple[str, ...]


def tune(pipeline: Any, size: Size) -> Tuned:
    """A second, tuned pipeline that shares the weights; the first one is unchanged."""
    transformer = _again(make_transformer, pipeline.transformer, size)
    vae = _again(make_vae, pipeline.vae, size)
    vae.enable_tiling()
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, RECOMPILE_LIMIT)
    notes = [*pick_backend(transformer, pipeline.condition_encoder), compile_blocks(transformer)]
    if transformer.device.type == "cuda":
        vae.encoder.compile()
        vae.decoder.compile()
        notes.append("the autoencoder's encoder and decoder compiled")
    notes.append(f"tiles of {vae.tile_latent_min_length} latent frames, overlap {vae.tile_latent_overlap}")
    tuned = assemble(
        {
            **{name: part for name, part in pipeline.components.items() if name != "scheduler"},
            "transformer": transformer,
            "vae": vae,
        }
    )
    return Tuned(tuned, tuple(notes))


def limit_hits() -> int:
    """Functions that have run uncompiled so far, since they exceeded the recompile limit."""
    return sum(count for reason, count in counters["unimplemented"].items() if "recompile limit" in reason)


def _again(make: Any, module: nn.Module, size: Size) -> Any:
    """Another module of the same class and sizes that shares the tensors of ``module``."""
    with torch.device("meta"):
        other = make(size)
    other.load_state_dict(module.state_dict(), assign=True)
    return other.eval().requires_grad_(False)


def pick_backend(transformer: Any, encoder: Any) -> list[str]:
    """Set the first attention backend that works; returns notes on it and on those that do not."""
    notes = []
    for name in BACKENDS[transformer.device.type]:
        try:
            # set_attention_backend also sets a global default; the context manager restores it.
            with attention_backend("native"):
                transformer.set_attention_backend(name)
            _probe(transformer, encoder)
        except Exception as error:  # backends differ in what they raise
            reason = str(error).strip().splitlines() or [type(error).__name__]
            notes.append(f"attention backend {name!r} not usable: {reason[0][:120]}")
            continue
        return [*notes, f"attention backend {name!r}"]
    return notes


@torch.no_grad()
def _probe(transformer: Any, encoder: Any) -> None:
    given = {"device": transformer.device, "dtype": transformer.dtype}
    channels = transformer.config.audio_acoustic_hidden_dim
    x = torch.zeros(1, PROBED_FRAMES, channels, **given)
    transformer(
        hidden_states=x,
        timestep=torch.ones(1, **given),
        timestep_r=torch.ones(1, **given),
        encoder_hidden_states=encoder.null_condition_emb.to(**given).expand(1, 8, -1),
        context_latents=torch.cat((x, x), dim=-1),
        return_dict=False,
    )


def compile_blocks(transformer: Any) -> str:
    """Compile the repeated blocks, with diffusers' own method if possible; returns a note on the method."""
    try:
        transformer.compile_repeated_blocks()
    except ValueError:
        for layer in transformer.layers:
            layer.compile()
        return (
            f"compile_repeated_blocks() is not usable: {type(transformer).__name__} names no repeated blocks; "
            "each layer's own compile(), which it stands for, is used"
        )
    return "compile_repeated_blocks()"
