"""The peer with its own means to be faster: an attention backend, compiled parts, a tiled autoencoder."""

from dataclasses import dataclass
from typing import Any

import torch
import torch._dynamo
from diffusers.models.attention_dispatch import attention_backend
from torch import nn
from torch._dynamo.utils import counters

from pipeline.benchmark.diffusers_side import assemble, make_transformer, make_vae
from pipeline.benchmark.model_sizes import Size

# In the order of their speed where they run. Flash attention cuts windows itself, the others read a dense mask. On
# a CPU "flex", which diffusers does not compile, takes 1.6 times as long as "native", and no other reads the mask.
BACKENDS = {"cuda": ("flash", "flash_hub", "_native_cudnn", "native"), "cpu": ("native",)}
PROBED_FRAMES = 320  # more tokens than a window has
RECOMPILE_LIMIT = 64  # variants of a function; torch's eight are soon gone, and what exceeds them runs uncompiled
PARTLY_EAGER = "tuned, in part uncompiled (recompile limit)"


@dataclass(frozen=True)
class Tuned:
    """The tuned pipeline, and which of its means are in use or why not."""

    pipeline: Any
    notes: tuple[str, ...]


def tune(pipeline: Any, size: Size) -> Tuned:
    """A second pipeline on the same weights; the first one stays as it is."""
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
    """How many functions have run uncompiled since this process began, for they had too many variants."""
    return sum(count for reason, count in counters["unimplemented"].items() if "recompile limit" in reason)


def _again(make: Any, module: nn.Module, size: Size) -> Any:
    """Another module of the same class and sizes that shares the tensors of ``module``."""
    with torch.device("meta"):
        other = make(size)
    other.load_state_dict(module.state_dict(), assign=True)
    return other.eval().requires_grad_(False)


def pick_backend(transformer: Any, encoder: Any) -> list[str]:
    """Set the first attention backend that runs here; says why those before it do not."""
    notes = []
    for name in BACKENDS[transformer.device.type]:
        try:
            # set_attention_backend also changes what every other model of the process uses; that ends here.
            with attention_backend("native"):
                transformer.set_attention_backend(name)
            _probe(transformer, encoder)
        except Exception as error:  # each backend has its own way to say that it is not there
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
    """Compile the repeated blocks, by diffusers' own means where it can; says which way."""
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
