"""Small random ACE-Step modules of diffusers, and their export to the published (original) checkpoint layout.

Written from the description of the two layouts and without ``acestep.checkpoints.checkpoint``, so that each checks
the other. Only the 2B layout, where one set of sizes serves all modules; weights stay fp32.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AceStepTransformer1DModel, AutoencoderOobleck
from diffusers.pipelines.ace_step import (
    AceStepAudioTokenDetokenizer,
    AceStepAudioTokenizer,
    AceStepConditionEncoder,
)
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

CHANNELS, TEXT_WIDTH, WIDTH = 8, 40, 48
SIZES = {  # chosen so that every window cuts and a wrong eps or theta shows
    "hidden_size": WIDTH,
    "intermediate_size": 80,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": 3,  # shorter than the poolers' sequences of 5 and 6 tokens
    "rope_theta": 2e4,
    "rms_norm_eps": 1e-3,
}
END_OF_TEXT = "<|endoftext|>"
PREFIXES = {
    "transformer": "decoder.",
    "condition_encoder": "encoder.",
    "audio_tokenizer": "tokenizer.",
    "audio_token_detokenizer": "detokenizer.",
}
RENAMES = (
    ("proj_in_conv.", "proj_in.1."),
    ("proj_out_conv.", "proj_out.1."),
    (".to_q.", ".q_proj."),
    (".to_k.", ".k_proj."),
    (".to_v.", ".v_proj."),
    (".to_out.0.", ".o_proj."),
    (".norm_q.", ".q_norm."),
    (".norm_k.", ".k_norm."),
)
ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class Parts:
    """Everything of one checkpoint, under the names that ``AceStepPipeline`` takes."""

    transformer: AceStepTransformer1DModel
    condition_encoder: AceStepConditionEncoder
    audio_tokenizer: AceStepAudioTokenizer
    audio_token_detokenizer: AceStepAudioTokenDetokenizer
    vae: AutoencoderOobleck
    text_encoder: Qwen3Model
    tokenizer: PreTrainedTokenizerFast


def noise(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers that depend on the seed alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomise(module: ModuleT, seed: int) -> ModuleT:
    """Draw every weight so that none is negligible and activations stay of order 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        value = torch.randn(weight.shape, generator=generator)
        if name.endswith("weight_g"):
            # Transposed convolutions sum fewer terms per sample; latents must vary to give several codes.
            gain = 4 if name.startswith("encoder.conv2") else 1.5 if "conv_t" in name else 1
            value = gain * (0.6 + 0.1 * value)
        elif name.endswith("weight_v"):
            value = 3 * value
        elif "norm" in name:
            value = 1 + 0.3 * value
        elif name.endswith(("bias", "alpha", "beta", "table")):
            value = 0.3 * value
        elif not name.endswith(("token", "tokens", "emb")):
            fan_in = weight.shape[0] if "proj_out_conv" in name else math.prod(weight.shape[1:])
            value = value / math.sqrt(fan_in)
        weight.data = value
    return module.eval().requires_grad_(False)


def make_parts() -> Parts:
    """Small random modules of a base model."""
    encoder = AceStepConditionEncoder(
        text_hidden_dim=TEXT_WIDTH,
        timbre_hidden_dim=CHANNELS,
        num_lyric_encoder_hidden_layers=3,
        num_timbre_encoder_hidden_layers=2,
        **SIZES,
    )
    encoder.silence_latent = noise(1, 1, 1, CHANNELS) + 0.3 * noise(2, 1, 15_000, CHANNELS)
    poolers = {"audio_acoustic_hidden_dim": CHANNELS, "num_attention_pooler_hidden_layers": 2, **SIZES}
    text_sizes = {
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    tokenizer = byte_tokenizer()
    vae = AutoencoderOobleck(
        encoder_hidden_size=2 * CHANNELS,
        downsampling_ratios=[2, 4, 4, 6, 10],
        channel_multiples=[1, 1, 2, 2, 3],
        decoder_channels=12,
        decoder_input_channels=CHANNELS,
        sampling_rate=48_000,
    )
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    return Parts(
        make_transformer(seed=4, layer_types=kinds),
        randomise(encoder, 5),
        randomise(AceStepAudioTokenizer(fsq_dim=WIDTH, fsq_input_levels=[8, 8, 8, 5, 5, 5], **poolers), 6),
        randomise(AceStepAudioTokenDetokenizer(**poolers), 7),
        randomise(vae, 8),
        randomise(Qwen3Model(Qwen3Config(vocab_size=len(tokenizer), **text_sizes)), 9),
        tokenizer,
    )


def make_transformer(
    seed: int, layer_types: list[str] | None, is_turbo: bool = False
) -> AceStepTransformer1DModel:
    """A small random transformer of four layers, which without ``layer_types`` alternate."""
    model = AceStepTransformer1DModel(
        num_hidden_layers=4,
        in_channels=3 * CHANNELS,
        audio_acoustic_hidden_dim=CHANNELS,
        layer_types=layer_types,
        is_turbo=is_turbo,
        **SIZES,
    )
    return randomise(model, seed)


def original_name(module: str, name: str) -> str:
    """The name in ``model.safetensors`` of tensor ``name`` of one of the modules in ``PREFIXES``."""
    if (module, name) == ("condition_encoder", "null_condition_emb"):
        return name
    for theirs, published in RENAMES:
        name = name.replace(theirs, published)
    return PREFIXES[module] + name


def model_tensors(parts: Parts) -> dict[str, Tensor]:
    """The content of ``model.safetensors``; the silence latent is a file of its own."""
    return {
        original_name(module, name): tensor.contiguous()
        for module in PREFIXES
        for name, tensor in getattr(parts, module).state_dict().items()
        if name != "silence_latent"
    }


def model_config(parts: Parts) -> dict[str, Any]:
    """The content of the model's ``config.json``.

    Raises:
        ValueError: the modules differ in a size that this layout holds once.
    """
    configs = {module: getattr(parts, module).config for module in PREFIXES}
    for key in SIZES:
        values = {module: config[key] for module, config in configs.items()}
        if len(set(values.values())) > 1:
            raise ValueError(f"{key} differs between the modules: {values}")
    decoder, conditioner = parts.transformer.config, parts.condition_encoder.config
    codes = parts.audio_tokenizer.config
    raw = {
        "model_type": "acestep",
        "architectures": ["AceStepConditionGenerationModel"],
        **{key: decoder[key] for key in SIZES},
        "num_hidden_layers": decoder.num_hidden_layers,
        "num_lyric_encoder_hidden_layers": conditioner.num_lyric_encoder_hidden_layers,
        "num_timbre_encoder_hidden_layers": conditioner.num_timbre_encoder_hidden_layers,
        "num_attention_pooler_hidden_layers": codes.num_attention_pooler_hidden_layers,
        "text_hidden_dim": conditioner.text_hidden_dim,
        "audio_acoustic_hidden_dim": decoder.audio_acoustic_hidden_dim,
        "timbre_hidden_dim": conditioner.timbre_hidden_dim,
        "timbre_fix_frame": 750,
        "in_channels": decoder.in_channels,
        "patch_size": decoder.patch_size,
        "pool_window_size": codes.pool_window_size,
        "fsq_dim": codes.fsq_dim,
        "fsq_input_levels": codes.fsq_input_levels,
        "fsq_input_num_quantizers": codes.fsq_input_num_quantizers,
        "use_sliding_window": True,
        "attention_bias": False,
        "is_turbo": decoder.is_turbo,
        "model_version": decoder.model_version,
        "dtype": "float32",
    }
    # Published files either list the layers' kinds or leave them to the rule; both must be read.
    return raw | ({"layer_types": decoder.layer_types} if decoder.layer_types else {})


def autoencoder_config(vae: AutoencoderOobleck) -> dict[str, Any]:
    """The content of the autoencoder's ``config.json``, which both layouts share."""
    names = (
        "audio_channels",
        "channel_multiples",
        "decoder_channels",
        "decoder_input_channels",
        "downsampling_ratios",
        "encoder_hidden_size",
        "sampling_rate",
    )
    return {"_class_name": "AutoencoderOobleck"} | {name: vae.config[name] for name in names}


def write_checkpoint(root: Path, parts: Parts, variant: str) -> None:
    """Write a bundle, or add another variant to one whose autoencoder and text encoder are the same."""
    write_model(root / f"acestep-v15-{variant}", parts)
    write_autoencoder(root / "vae", parts.vae)
    write_text_encoder(root / "Qwen3-Embedding-0.6B", parts.text_encoder, parts.tokenizer)


def write_model(folder: Path, parts: Parts) -> None:
    """Write one model folder; the silence latent turns from time-first to channels-first."""
    _write_folder(folder, model_config(parts), "model", model_tensors(parts))
    silence = parts.condition_encoder.silence_latent
    torch.save(silence.transpose(1, 2).contiguous(), folder / "silence_latent.pt")


def write_autoencoder(folder: Path, vae: AutoencoderOobleck) -> None:
    """Write the autoencoder's folder; its tensors keep their names."""
    tensors = {name: tensor.contiguous() for name, tensor in vae.state_dict().items()}
    _write_folder(folder, autoencoder_config(vae), "diffusion_pytorch_model", tensors)


def write_text_encoder(folder: Path, model: Qwen3Model, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the text encoder's folder."""
    model.save_pretrained(folder)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a handful of merges, which appends one end token as the published one does."""
    merges = [("e", "r"), ("o", "n"), ("\u0120", "t"), ("i", "on"), ("\u0120", "m")]
    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=merges))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([END_OF_TEXT, "<|im_start|>", "<|im_end|>"])
    end = (END_OF_TEXT, backend.token_to_id(END_OF_TEXT))
    backend.post_processor = processors.TemplateProcessing(single=f"$A {END_OF_TEXT}", special_tokens=[end])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=END_OF_TEXT)


def _write_folder(folder: Path, raw: dict[str, Any], stem: str, tensors: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw, indent=2))
    save_file(tensors, folder / f"{stem}.safetensors", metadata={"format": "pt"})
