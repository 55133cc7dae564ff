"""Sizes are those of the published files where they claim to be."""

from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3Model

from acestep.model.ace_step import AceStepModel
from acestep.model.config import parse_autoencoder_config
from pipeline.benchmark.diffusers_side import make_transformer, make_vae
from pipeline.benchmark.model_sizes import SIZES


def count(module: Any) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def test_the_full_size_is_the_published_one() -> None:
    full = SIZES["full"]
    with torch.device("meta"):
        model, transformer, vae = AceStepModel(full.model_config), make_transformer(full), make_vae(full)
        text = Qwen3Model(Qwen3Config(**full.text_encoder))
    assert count(transformer) == pytest.approx(1575, abs=1)
    assert count(model.decoder) == pytest.approx(count(transformer))
    assert count(model.encoder) == pytest.approx(608, abs=1)
    assert count(model.tokenizer) == pytest.approx(105, abs=1)
    assert count(model.detokenizer) == pytest.approx(105, abs=1)
    assert count(vae.decoder) == pytest.approx(84.4, abs=0.3)
    assert count(text) == pytest.approx(596, abs=1)


def test_wide_is_full_with_fewer_layers() -> None:
    wide, full = SIZES["wide"], SIZES["full"]
    assert wide.autoencoder == full.autoencoder
    assert wide.model | {"num_hidden_layers": 24} == full.model


@pytest.mark.parametrize("name", SIZES)
def test_every_size_is_one_hop_of_1920_samples(name: str) -> None:
    config = parse_autoencoder_config(SIZES[name].autoencoder, name)
    assert torch.tensor(config.ratios).prod() == 1920
    assert config.latent_channels == SIZES[name].model_config.latent_channels
    assert SIZES[name].text_encoder["hidden_size"] == SIZES[name].model_config.text_channels
