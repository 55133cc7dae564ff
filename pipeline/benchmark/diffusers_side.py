"""The peer: diffusers' classes with random weights, and what makes it comparable.

Legend: b batch, c latent channels, t latent frames, a audio channels, s samples.
"""

import warnings
from typing import Any

import torch
from diffusers import (
    AceStepPipeline,
    AceStepTransformer1DModel,
    AutoencoderOobleck,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.pipelines.ace_step import (
    AceStepAudioTokenDetokenizer,
    AceStepAudioTokenizer,
    AceStepConditionEncoder,
)
from diffusers.utils import logging
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from pipeline.benchmark.byte_tokenizer import END_OF_TEXT, byte_tokenizer
from pipeline.benchmark.model_sizes import Size
from pipeline.benchmark.random_weights import calibrate, randomise

SILENCE_FRAMES = 15_000
_BLOCK = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("sliding_window", "rope_theta", "rms_norm_eps", "attention_bias"),
)
_POOLER = ("audio_acoustic_hidden_dim", "pool_window_size", "num_attention_pooler_hidden_layers")


class MeanOobleck(AutoencoderOobleck):
    """The autoencoder with a posterior of zero width: samples equal the mean, at the same cost.

    The pipeline samples its source latents with the global generator, while ours are the mean.
    """

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> Any:
        encoded = AutoencoderOobleck.encode(self, x)
        encoded.latent_dist.std.zero_()
        return encoded if return_dict else (encoded.latent_dist,)


@torch.no_grad()
def make_pipeline(size: Size, seed: int, device: torch.device) -> Any:
    """A base pipeline with random fp32 weights on ``device``."""
    logging.set_verbosity_error()
    raw, generator = size.model, torch.Generator(device).manual_seed(seed)
    block, pooler = ({key: raw[key] for key in keys} for keys in (_BLOCK, _POOLER))
    with device:
        encoder: Any = AceStepConditionEncoder(
            text_hidden_dim=raw["text_hidden_dim"],
            timbre_hidden_dim=raw["timbre_hidden_dim"],
            num_lyric_encoder_hidden_layers=raw["num_lyric_encoder_hidden_layers"],
            num_timbre_encoder_hidden_layers=raw["num_timbre_encoder_hidden_layers"],
            **block,
        )
        codes = {"fsq_dim": raw["fsq_dim"], "fsq_input_levels": raw["fsq_input_levels"]}
        modules: dict[str, Any] = {
            "transformer": make_transformer(size),
            "condition_encoder": encoder,
            "audio_tokenizer": AceStepAudioTokenizer(**codes, **pooler, **block),
            "audio_token_detokenizer": AceStepAudioTokenDetokenizer(**pooler, **block),
            "vae": make_vae(size),
            "text_encoder": Qwen3Model(Qwen3Config(**size.text_encoder)),
        }
    for module in modules.values():
        randomise(module, generator)
    channels = raw["audio_acoustic_hidden_dim"]
    silence = torch.randn(2, SILENCE_FRAMES, channels, generator=generator, device=device)
    encoder.silence_latent = (silence[:1, :1] + 0.3 * silence[1:]).contiguous()
    noise = torch.randn(1, 2, 48_000, generator=generator, device=device)
    calibrate(modules["vae"], 0.2 * noise, silence[:1, :25].transpose(1, 2))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), pad_token=END_OF_TEXT)
    return assemble(modules | {"tokenizer": tokenizer})


def make_transformer(size: Size) -> AceStepTransformer1DModel:
    """The diffusion transformer of a size, on the current default device."""
    raw = size.model
    return AceStepTransformer1DModel(
        num_hidden_layers=raw["num_hidden_layers"],
        in_channels=raw["in_channels"],
        audio_acoustic_hidden_dim=raw["audio_acoustic_hidden_dim"],
        patch_size=raw["patch_size"],
        **{key: raw[key] for key in _BLOCK},
    )


def make_vae(size: Size) -> MeanOobleck:
    """The autoencoder of a size, on the current default device."""
    sizes = {key: value for key, value in size.autoencoder.items() if key != "_class_name"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers uses torch's deprecated weight_norm
        return MeanOobleck(**sizes)


def assemble(modules: dict[str, Any]) -> Any:
    """A pipeline of the given modules."""
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0)
    pipeline: Any = AceStepPipeline(scheduler=scheduler, **modules)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def weights(pipeline: Any) -> list[torch.Tensor]:
    """All tensors that a checkpoint would hold."""
    modules = (part for part in pipeline.components.values() if isinstance(part, nn.Module))
    return [tensor for module in modules for tensor in module.state_dict().values()]


@torch.no_grad()
def round_to(pipeline: Any, dtype: torch.dtype) -> None:
    """Round the fp32 weights to values of ``dtype``."""
    for tensor in weights(pipeline):
        tensor.copy_(tensor.to(dtype))


def cast(pipeline: Any, dtype: torch.dtype) -> None:
    """Cast to ``dtype`` like a pipeline loaded in it: rotary frequencies, which no checkpoint holds, stay fp32."""
    for module in pipeline.components.values():
        if isinstance(module, nn.Module):
            for parameter in module.parameters():
                parameter.data = parameter.data.to(dtype)
    encoder = pipeline.condition_encoder
    encoder.silence_latent = encoder.silence_latent.to(dtype)
