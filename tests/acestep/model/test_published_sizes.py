"""Every tensor of the published checkpoints, by name and shape, written out from the description of the format.

The expected lists come from the sizes and tables below alone; our modules are built on the meta device.
"""

from typing import Any

import pytest
import torch

from acestep.checkpoints.checkpoint import model_shapes
from acestep.model.ace_step import AceStepModel
from acestep.model.autoencoder import Autoencoder, weight_norm_shapes
from acestep.model.config import ModelConfig, parse_autoencoder_config, parse_model_config

Shapes = dict[str, tuple[int, ...]]

SHARED = {
    "model_type": "acestep",
    "architectures": ["AceStepConditionGenerationModel"],
    "head_dim": 128,
    "num_lyric_encoder_hidden_layers": 8,
    "num_timbre_encoder_hidden_layers": 4,
    "num_attention_pooler_hidden_layers": 2,
    "text_hidden_dim": 1024,
    "audio_acoustic_hidden_dim": 64,
    "timbre_hidden_dim": 64,
    "timbre_fix_frame": 750,
    "in_channels": 192,
    "patch_size": 2,
    "pool_window_size": 5,
    "fsq_dim": 2048,
    "fsq_input_levels": [8, 8, 8, 5, 5, 5],
    "fsq_input_num_quantizers": 1,
    "use_sliding_window": True,
    "sliding_window": 128,
    "rope_theta": 1_000_000,
    "rope_scaling": None,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "max_position_embeddings": 32_768,
    "vocab_size": 64_003,
    "data_proportion": 0.5,
    "timestep_mu": -0.4,
    "timestep_sigma": 1.0,
    "dtype": "bfloat16",
}
MODEL_2B = SHARED | {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "num_audio_decoder_hidden_layers": 24,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
}
MODEL_XL = SHARED | {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "encoder_hidden_size": 2048,
    "encoder_intermediate_size": 6144,
    "encoder_num_attention_heads": 16,
    "encoder_num_key_value_heads": 8,
}
AUTOENCODER = {
    "_class_name": "AutoencoderOobleck",
    "audio_channels": 2,
    "channel_multiples": [1, 2, 4, 8, 16],
    "decoder_channels": 128,
    "decoder_input_channels": 64,
    "downsampling_ratios": [2, 4, 4, 6, 10],
    "encoder_hidden_size": 128,
    "sampling_rate": 48_000,
}
# The dimensions of the table, per model. H, I: transformer widths; q, k: its query and key widths (heads x 128).
# He, Ie, qe, ke: the same of the encoders. d: head width; C: latent channels.
SIZES_2B = {"H": 2048, "I": 6144, "q": 2048, "k": 1024, "He": 2048, "Ie": 6144, "qe": 2048, "ke": 1024}
SIZES_XL = {"H": 2560, "I": 9728, "q": 4096, "k": 1024, "He": 2048, "Ie": 6144, "qe": 2048, "ke": 1024}

TRANSFORMER = """
    proj_in.1.weight H 192 2
    proj_in.1.bias H
    condition_embedder.weight H He
    condition_embedder.bias H
    norm_out.weight H
    scale_shift_table 1 2 H
    proj_out.1.weight H C 2
    proj_out.1.bias C
"""
TIME = """
    linear_1.weight H 256
    linear_1.bias H
    linear_2.weight H H
    linear_2.bias H
    time_proj.weight 6H H
    time_proj.bias 6H
"""
TRANSFORMER_LAYER = """
    self_attn_norm.weight H
    cross_attn_norm.weight H
    mlp_norm.weight H
    mlp.gate_proj.weight I H
    mlp.up_proj.weight I H
    mlp.down_proj.weight H I
    scale_shift_table 1 6 H
"""
TRANSFORMER_ATTENTION = """
    q_proj.weight q H
    k_proj.weight k H
    v_proj.weight k H
    o_proj.weight H q
    q_norm.weight d
    k_norm.weight d
"""
ENCODER_LAYER = """
    input_layernorm.weight He
    post_attention_layernorm.weight He
    self_attn.q_proj.weight qe He
    self_attn.k_proj.weight ke He
    self_attn.v_proj.weight ke He
    self_attn.o_proj.weight He qe
    self_attn.q_norm.weight d
    self_attn.k_norm.weight d
    mlp.gate_proj.weight Ie He
    mlp.up_proj.weight Ie He
    mlp.down_proj.weight He Ie
"""
ENCODERS = """
    encoder.text_projector.weight He 1024
    encoder.lyric_encoder.embed_tokens.weight He 1024
    encoder.lyric_encoder.embed_tokens.bias He
    encoder.lyric_encoder.norm.weight He
    encoder.timbre_encoder.embed_tokens.weight He 64
    encoder.timbre_encoder.embed_tokens.bias He
    encoder.timbre_encoder.norm.weight He
    encoder.timbre_encoder.special_token 1 1 He
    tokenizer.audio_acoustic_proj.weight He C
    tokenizer.audio_acoustic_proj.bias He
    tokenizer.attention_pooler.embed_tokens.weight He He
    tokenizer.attention_pooler.embed_tokens.bias He
    tokenizer.attention_pooler.norm.weight He
    tokenizer.attention_pooler.special_token 1 1 He
    tokenizer.quantizer.project_in.weight 6 2048
    tokenizer.quantizer.project_in.bias 6
    tokenizer.quantizer.project_out.weight 2048 6
    tokenizer.quantizer.project_out.bias 2048
    detokenizer.embed_tokens.weight He He
    detokenizer.embed_tokens.bias He
    detokenizer.norm.weight He
    detokenizer.special_tokens 1 5 He
    detokenizer.proj_out.weight C He
    detokenizer.proj_out.bias C
    null_condition_emb 1 1 He
"""
ENCODER_DEPTHS = {
    "encoder.lyric_encoder": 8,
    "encoder.timbre_encoder": 4,
    "tokenizer.attention_pooler": 2,
    "detokenizer": 2,
}


def expand(table: str, sizes: dict[str, int], prefix: str = "") -> Shapes:
    """A table of names and symbolic shapes as a dictionary, every name after ``prefix``."""
    known = sizes | {"6H": 6 * sizes["H"], "C": 64, "d": 128}
    rows = (line.split() for line in table.strip().splitlines())
    return {f"{prefix}{name}": tuple(known.get(s) or int(s) for s in shape) for name, *shape in rows}


def model_file(sizes: dict[str, int], layers: int) -> Shapes:
    """The tensors of ``model.safetensors``."""
    tensors = expand(TRANSFORMER, sizes, "decoder.") | expand(ENCODERS, sizes)
    for name in ("time_embed", "time_embed_r"):
        tensors |= expand(TIME, sizes, f"decoder.{name}.")
    for i in range(layers):
        tensors |= expand(TRANSFORMER_LAYER, sizes, f"decoder.layers.{i}.")
        for attention in ("self_attn", "cross_attn"):
            tensors |= expand(TRANSFORMER_ATTENTION, sizes, f"decoder.layers.{i}.{attention}.")
    for encoder, depth in ENCODER_DEPTHS.items():
        for i in range(depth):
            tensors |= expand(ENCODER_LAYER, sizes, f"{encoder}.layers.{i}.")
    return tensors


def convolution(name: str, first: int, second: int, kernel: int, bias: int) -> Shapes:
    """A weight-normalised convolution; ``first`` is the axis that keeps its norm, ``bias`` 0 is none."""
    tensors = {f"{name}.weight_g": (first, 1, 1), f"{name}.weight_v": (first, second, kernel)}
    return tensors | ({f"{name}.bias": (bias,)} if bias else {})


def snake(name: str, channels: int) -> Shapes:
    return {f"{name}.alpha": (1, channels, 1), f"{name}.beta": (1, channels, 1)}


def residual_units(block: str, channels: int) -> Shapes:
    tensors: Shapes = {}
    for unit in (f"{block}.res_unit{j}" for j in (1, 2, 3)):
        tensors |= snake(f"{unit}.snake1", channels) | snake(f"{unit}.snake2", channels)
        tensors |= convolution(f"{unit}.conv1", channels, channels, 7, channels)
        tensors |= convolution(f"{unit}.conv2", channels, channels, 1, channels)
    return tensors


def autoencoder_file() -> Shapes:
    """The tensors of ``diffusion_pytorch_model.safetensors``."""
    tensors = convolution("encoder.conv1", 128, 2, 7, 128)
    down = ((128, 128, 2), (128, 256, 4), (256, 512, 4), (512, 1024, 6), (1024, 2048, 10))
    for i, (before, after, stride) in enumerate(down):
        block = f"encoder.block.{i}"
        tensors |= residual_units(block, before) | snake(f"{block}.snake1", before)
        tensors |= convolution(f"{block}.conv1", after, before, 2 * stride, after)
    tensors |= snake("encoder.snake1", 2048) | convolution("encoder.conv2", 128, 2048, 3, 128)
    tensors |= convolution("decoder.conv1", 2048, 64, 7, 2048)
    up = ((2048, 1024, 10), (1024, 512, 6), (512, 256, 4), (256, 128, 4), (128, 128, 2))
    for i, (before, after, stride) in enumerate(up):
        block = f"decoder.block.{i}"
        tensors |= snake(f"{block}.snake1", before) | residual_units(block, after)
        tensors |= convolution(f"{block}.conv_t1", before, after, 2 * stride, after)
    return tensors | snake("decoder.snake1", 128) | convolution("decoder.conv2", 2, 128, 7, 0)


def parse(raw: dict[str, Any]) -> ModelConfig:
    return parse_model_config(raw, "acestep-v15-base")


@pytest.mark.parametrize(
    ("raw", "sizes", "layers", "count"),
    [(MODEL_2B, SIZES_2B, 24, 677), (MODEL_XL, SIZES_XL, 32, 829)],
    ids=["2B", "XL"],
)
def test_model_file(raw: dict[str, Any], sizes: dict[str, int], layers: int, count: int) -> None:
    expected = model_file(sizes, layers)
    assert len(expected) == count
    with torch.device("meta"):
        model = AceStepModel(parse(raw))
    assert model_shapes(model) == expected


def test_autoencoder_file() -> None:
    expected = autoencoder_file()
    assert len(expected) == 365
    with torch.device("meta"):
        autoencoder = Autoencoder(parse_autoencoder_config(AUTOENCODER, "vae"))
    assert weight_norm_shapes(autoencoder) == expected
    assert autoencoder.hop == 1920


@pytest.mark.parametrize("raw", [MODEL_2B, MODEL_XL], ids=["2B", "XL"])
def test_what_shapes_do_not_show(raw: dict[str, Any]) -> None:
    config = parse(raw)
    layers = raw["num_hidden_layers"]
    assert config.decoder.windows == (128, None) * (layers // 2)
    assert config.encoder.windows[:8] == (128, None) * 4
    for block, heads in ((config.decoder, raw["num_attention_heads"]), (config.encoder, 16)):
        assert (block.heads, block.kv_heads, block.head_dim) == (heads, 8, 128)
        assert (block.rope_theta, block.rms_norm_eps) == (1e6, 1e-6)
    assert config.timbre_token is ("encoder_hidden_size" in raw)
    assert config.timbre_frames == 750
    assert not config.is_turbo


@pytest.mark.parametrize(
    ("extra", "folder"),
    [
        ({"is_turbo": True}, "acestep-v15-x"),
        ({"model_version": "turbo"}, "acestep-v15-x"),
        ({}, "acestep-v15-turbo-shift3"),
    ],
)
def test_turbo_is_told_by_either_key_or_the_folder(extra: dict[str, Any], folder: str) -> None:
    assert parse_model_config(MODEL_2B | extra, folder).is_turbo
    assert not parse_model_config(MODEL_2B, "acestep-v15-x").is_turbo


def test_switched_off_windows_leave_every_layer_full() -> None:
    config = parse(MODEL_2B | {"use_sliding_window": False})
    assert set(config.decoder.windows) | set(config.encoder.windows) == {None}
