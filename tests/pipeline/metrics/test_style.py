"""CLAP is the real network with random weights: what is tested is how it is fed, not what it knows."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

from acestep.constants import SAMPLE_RATE
from acestep.errors import RequestError
from pipeline.metrics import style
from tests.pipeline.metrics.material import render, song

WORDS = ("<s>", "<pad>", "</s>", "<unk>", "metal", "country", "with", "drums")


def save_clap(folder: Path, fusion: bool) -> Path:
    """A CLAP model of a few thousand random weights."""
    torch.manual_seed(0)
    audio = {
        "patch_embeds_hidden_size": 8,
        "hidden_size": 16,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "spec_size": 256,
        "window_size": 4,
        "enable_fusion": fusion,
        "fusion_type": "aff_2d" if fusion else None,
    }
    text = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 34,
    }
    ClapModel(ClapConfig(audio_config=audio, text_config=text, projection_dim=12)).save_pretrained(folder)
    ClapFeatureExtractor(truncation="fusion" if fusion else "rand_trunc").save_pretrained(folder)
    tokens = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "fusion"])
def clap(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> style.Clap:
    folder = save_clap(tmp_path_factory.mktemp("clap"), request.param)
    return style.load_clap(str(folder), torch.device("cpu"))


def test_windows_cover_everything_and_are_always_the_same() -> None:
    assert style.windows(1) == style.windows(style.WINDOW) == [0]
    assert style.windows(style.WINDOW + 10) == [0, 10]
    for samples in (25 * SAMPLE_RATE, 600 * SAMPLE_RATE + 1):
        starts = style.windows(samples)
        assert starts[0] == 0
        assert starts[-1] == samples - style.WINDOW
        assert all(0 < b - a <= style.WINDOW for a, b in pairwise(starts))


def test_a_sound_is_embedded_the_same_every_time(clap: style.Clap) -> None:
    wave = render(song(0))
    first, again = style.embed(clap, wave), style.embed(clap, wave)
    assert first.shape == (12,)
    assert float(first.norm()) == pytest.approx(1)
    assert torch.equal(first, again)


def test_an_embedding_is_the_mean_of_its_windows(clap: style.Clap) -> None:
    wave = render(song(0))[:, : 2 * style.WINDOW]
    halves = [style.embed(clap, half) for half in wave.split(style.WINDOW, dim=1)]
    assert torch.allclose(style.embed(clap, wave), torch.nn.functional.normalize(sum(halves), dim=0), atol=1e-5)
    assert not torch.allclose(halves[0], halves[1], atol=1e-4)


def test_a_cover_is_compared_with_its_caption_and_its_source(clap: style.Clap) -> None:
    source, cover = (style.embed(clap, render(song(0, genre))) for genre in ("country", "metal"))
    found = style.compare(clap, source, cover, "metal with drums")
    assert found["style/clap_text"] == pytest.approx(float(cover @ style.embed_text(clap, "metal with drums")))
    assert style.compare(clap, source, source, "metal with drums")["style/clap_delta"] == 0
    other = style.compare(clap, source, cover, "country")
    assert other["style/clap_text"] != pytest.approx(found["style/clap_text"], abs=1e-4)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_silence_and_broken_samples_have_no_style(clap: style.Clap, value: float) -> None:
    source, broken = style.embed(clap, render(song(0))), style.embed(clap, torch.full((2, SAMPLE_RATE), value))
    found = style.compare(clap, source, broken, "metal")
    assert found == dict.fromkeys(("style/clap_text", "style/clap_delta"), "the cover is silent or not finite")
    assert style.compare(clap, broken, source, "metal")["style/clap_text"] == "the source is silent or not finite"


def test_a_caption_of_any_length_is_read(clap: style.Clap) -> None:
    assert float(style.embed_text(clap, "metal " * 500).norm()) == pytest.approx(1)


def test_a_folder_that_lacks_something_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no config\.json and .* weights as safetensors; give a CLAP model"):
        style.check_style(str(tmp_path))
    folder = save_clap(tmp_path / "clap", fusion=False)
    assert style.check_style(str(folder)) == folder
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(RequestError, match="no CLAP model but one of type 'bert'"):
        style.check_style(str(folder))


def test_a_model_that_cannot_be_fetched_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"metrics\.style='not here': neither a folder nor a hub id"):
        style.check_style("not here")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RequestError, match=f"{style.USUAL}': the hub does not give it .*hf download"):
        style.check_style(style.USUAL)
