"""Random ACE-Step pipelines of diffusers, saved by diffusers' own ``save_pretrained``."""

from dataclasses import replace
from pathlib import Path

from diffusers import AceStepPipeline, AceStepTransformer1DModel, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.ace_step import (
    AceStepAudioTokenDetokenizer,
    AceStepAudioTokenizer,
    AceStepConditionEncoder,
)

from tests.parity.export import CHANNELS, SIZES, TEXT_WIDTH, Parts, make_parts, noise, randomise

XL_ENCODER = {"hidden_size": 32, "intermediate_size": 56, "num_attention_heads": 2, "num_key_value_heads": 1}
XL_DECODER = {"hidden_size": 48, "intermediate_size": 88, "num_attention_heads": 6, "num_key_value_heads": 2}


def make_xl_parts() -> Parts:
    """Small random modules of an XL turbo model: the encoder side has a width of its own."""
    encoder_sizes, decoder_sizes = SIZES | XL_ENCODER, SIZES | XL_DECODER
    poolers = {"audio_acoustic_hidden_dim": CHANNELS, "num_attention_pooler_hidden_layers": 2, **encoder_sizes}
    conditioner = AceStepConditionEncoder(
        text_hidden_dim=TEXT_WIDTH,
        timbre_hidden_dim=CHANNELS,
        num_lyric_encoder_hidden_layers=2,
        num_timbre_encoder_hidden_layers=3,
        **encoder_sizes,
    )
    conditioner.silence_latent = noise(1, 1, 15_000, CHANNELS)
    transformer = AceStepTransformer1DModel(
        num_hidden_layers=3,
        in_channels=3 * CHANNELS,
        audio_acoustic_hidden_dim=CHANNELS,
        encoder_hidden_size=XL_ENCODER["hidden_size"],
        is_turbo=True,
        model_version="turbo",
        **decoder_sizes,
    )
    tokenizer = AceStepAudioTokenizer(
        fsq_dim=XL_ENCODER["hidden_size"], fsq_input_levels=[8, 8, 8, 5, 5, 5], **poolers
    )
    return replace(
        make_parts(),
        transformer=randomise(transformer, 11),
        condition_encoder=randomise(conditioner, 12),
        audio_tokenizer=randomise(tokenizer, 13),
        audio_token_detokenizer=randomise(AceStepAudioTokenDetokenizer(**poolers), 14),
    )


def save_pipeline(folder: Path, parts: Parts, max_shard_size: str = "10GB") -> Path:
    """Save as diffusers does; returns the folder."""
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0)
    AceStepPipeline(scheduler=scheduler, **vars(parts)).save_pretrained(folder, max_shard_size=max_shard_size)
    return folder
