"""The diffusers layout: what diffusers saves is read as the same model, and what does not fit is named."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.ace_step import AceStepAudioTokenizer
from safetensors.torch import load_file, save_file

from acestep.checkpoints.checkpoint import fingerprint, load_model, load_silence, open_model
from acestep.checkpoints.folders import locate
from acestep.checkpoints.verify import verify
from acestep.errors import CheckpointError
from acestep.handler import AceStepHandler
from acestep.model.ace_step import AceStepModel
from tests.parity.cases import CPU, ROUNDING, difference
from tests.parity.export import CHANNELS, PREFIXES, Parts, make_parts, noise, original_name, write_checkpoint
from tests.parity.pipeline_folder import make_xl_parts, save_pipeline
from tests.refusals import raises

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def parts() -> Parts:
    return make_parts()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, parts: Parts) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline") / "ace", parts)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of a saved pipeline, to be broken."""
    return Path(shutil.copytree(saved, tmp_path / "pipeline"))


def assert_same_weights(model: AceStepModel, parts: Parts) -> None:
    ours = model.state_dict()
    read = set()
    for module in PREFIXES:
        for name, theirs in getattr(parts, module).state_dict().items():
            if name != "silence_latent":
                own = original_name(module, name).replace("proj_in.1.", "proj_in.").replace("out.1.", "out.")
                assert torch.equal(ours[own], theirs), own
                read.add(own)
    assert read == ours.keys()


@pytest.mark.parametrize("make", [make_parts, make_xl_parts], ids=["2B", "XL"])
def test_what_diffusers_saves_in_shards_is_the_same_model(tmp_path: Path, make: Callable[[], Parts]) -> None:
    parts = make()
    folder = save_pipeline(tmp_path / "ace", parts, max_shard_size="150KB")
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 1
    handler = AceStepHandler.from_checkpoint(folder, device="cpu", dtype="float32")
    model = handler.model
    assert_same_weights(model, parts)
    assert torch.equal(handler.silence, parts.condition_encoder.silence_latent[0])
    assert handler.is_turbo == (make is make_xl_parts)
    assert model.config.timbre_token == (make is make_xl_parts)

    x, context = noise(1, 2, 51, CHANNELS), noise(2, 2, 51, 2 * CHANNELS)
    condition = noise(3, 2, 13, model.config.encoder.hidden_size)
    t, r = torch.tensor([0.93, 0.31]), torch.tensor([0.55, 0.3])
    theirs = parts.transformer(x, t, r, condition, context, return_dict=False)[0]
    cross = model.decoder.cross_attention(condition)
    ours = model.decoder(x, context, model.decoder.modulation(t, r), cross)
    assert difference(ours, theirs) <= ROUNDING
    latents = 2 * noise(4, 1, 50, CHANNELS)
    quantized, codes = parts.audio_tokenizer.tokenize(latents, parts.condition_encoder.silence_latent)
    assert model.tokenizer(latents).tolist() == codes[..., 0].tolist()
    hints = model.detokenizer(model.tokenizer.quantizer.vectors(codes[..., 0]))
    assert difference(hints, parts.audio_token_detokenizer(quantized)) <= ROUNDING
    lyrics = noise(5, 1, 9, parts.text_encoder.config.hidden_size)
    theirs = parts.condition_encoder.lyric_encoder(lyrics, torch.ones(1, 9, dtype=torch.long))
    assert difference(model.encoder.lyric_encoder(lyrics), theirs) <= ROUNDING


def test_both_layouts_give_the_same_model(saved: Path, parts: Parts, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, parts, "base")
    one = AceStepHandler.from_checkpoint(tmp_path, device="cpu", dtype="float32")
    other = AceStepHandler.from_checkpoint(saved, device="cpu", dtype="float32")
    assert one.model.config == other.model.config
    assert torch.equal(one.silence, other.silence)
    weights, others = one.model.state_dict(), other.model.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    latents = noise(6, 1, 3, CHANNELS)
    assert torch.equal(one.autoencoder.decode(latents), other.autoencoder.decode(latents))
    text = "heavy metal, \u00e9lectrique"
    assert one.text_encoder.token_ids(text, 256) == other.text_encoder.token_ids(text, 256)
    assert torch.equal(one.text_encoder.prompt_states(text), other.text_encoder.prompt_states(text))


def test_a_silence_latent_in_half_precision_of_any_length(folder: Path) -> None:
    file = folder / "condition_encoder" / WEIGHTS
    silence = load_silence(folder, CHANNELS)
    change(file, lambda t: t.update(silence_latent=t["silence_latent"][:, :700].bfloat16().contiguous()))
    open_model(folder)
    assert torch.equal(load_silence(folder, CHANNELS), silence[:700].bfloat16().float())


def change(file: Path, edit: Callable[[dict], object]) -> None:
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


def set_keys(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_everything_wrong_with_the_tensors_is_listed_at_once(folder: Path) -> None:
    change(folder / "transformer" / WEIGHTS, lambda t: t.pop("layers.1.cross_attn.to_out.0.weight"))
    change(folder / "audio_tokenizer" / WEIGHTS, lambda t: t.update(surplus=torch.zeros(1)))
    change(folder / "condition_encoder" / WEIGHTS, lambda t: t.update(silence_latent=torch.zeros(1, CHANNELS, 9)))
    change(folder / "audio_token_detokenizer" / WEIGHTS, lambda t: t.update({"norm.weight": torch.ones(7)}))
    with pytest.raises(CheckpointError) as caught:
        open_model(folder)
    for problem in (
        "1 missing: transformer/layers.1.cross_attn.to_out.0.weight",
        "1 unexpected: audio_tokenizer/surplus",
        "2 of another shape: audio_token_detokenizer/norm.weight is [7], expected [48]",
        "condition_encoder/silence_latent is [1, 8, 9], expected [1, any, 8]",
    ):
        assert problem in str(caught.value)


def test_no_silence_latent(folder: Path) -> None:
    change(folder / "condition_encoder" / WEIGHTS, lambda t: t.pop("silence_latent"))
    with pytest.raises(CheckpointError, match="1 missing: condition_encoder/silence_latent"):
        open_model(folder)
    with pytest.raises(CheckpointError, match="found none"):
        load_silence(folder, CHANNELS)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("model_index.json", {"_class_name": "FluxPipeline"}, "describes a 'FluxPipeline', expected 'AceStepPip"),
        (
            "transformer/config.json",
            {"_class_name": "DiT"},
            "_class_name is 'DiT', expected 'AceStepTransformer1D",
        ),
        (
            "audio_tokenizer/config.json",
            {"rope_theta": 1e6},
            "rope_theta is 20000.0 in transformer and 1000000.0 in",
        ),
        (
            "condition_encoder/config.json",
            {"hidden_size": 96},
            "encoder_hidden_size is 48 in transformer and 96 in",
        ),
        (
            "transformer/config.json",
            {"layer_types": ["full_attention"] * 4},
            r"layer_types is None in condition_encoder, but \['full_attention', .* elsewhere",
        ),
        ("transformer/config.json", {"layer_types": ["full_attention"]}, "modules of different orders"),
        ("transformer/config.json", {"num_hidden_layers": 5}, r"19 missing: transformer/layers\.4\."),
        ("audio_tokenizer/config.json", {"fsq_dim": None}, "fsq_dim is None, expected a whole number above 0"),
        ("audio_tokenizer/config.json", {"layer_types": 5}, "audio_tokenizer: layer_types is 5, expected a list"),
        ("text_encoder/config.json", {"hidden_act": "zz"}, r"text_encoder/config\.json: describes no Qwen3 model"),
        ("text_encoder/config.json", {"model_type": "t5"}, "model_type 't5' is not supported; allowed: qwen3"),
        ("text_encoder/config.json", {"num_hidden_layers": 3}, r"describes no Qwen3 model \(.*must be equal"),
        ("vae/config.json", {"_class_name": "AutoencoderKL"}, "_class_name 'AutoencoderKL' is not supported"),
    ],
)
def test_folders_of_something_else(folder: Path, file: str, values: dict, message: str) -> None:
    set_keys(folder / file, **values)
    with pytest.raises(CheckpointError, match=message):
        verify(locate(folder))


@pytest.mark.parametrize(
    ("gone", "where"),
    [
        ("audio_tokenizer", "audio_tokenizer/config.json"),
        ("vae", ""),
        ("text_encoder", ""),
        ("tokenizer", "text_encoder/tokenizer.json"),
        (f"transformer/{WEIGHTS}", f"transformer/{WEIGHTS}"),
    ],
)
def test_incomplete_folders(folder: Path, gone: str, where: str) -> None:
    path = folder / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with raises(CheckpointError, "missing_weights") as raised:
        verify(locate(folder))
    assert raised.value.where == str(folder / where)


def test_one_model_has_no_variants(folder: Path) -> None:
    with raises(CheckpointError, "unknown_model", remedy="leave out variant 'turbo'"):
        locate(folder, "turbo")


def test_one_order_of_layers_for_all_modules(folder: Path) -> None:
    order = ["full_attention", "full_attention", "sliding_attention", "full_attention"]
    set_keys(folder / "transformer" / "config.json", layer_types=order)
    for module, layers in (("condition_encoder", 3), ("audio_tokenizer", 2), ("audio_token_detokenizer", 2)):
        set_keys(folder / module / "config.json", layer_types=order[:layers])
    config = load_model(folder, CPU, torch.float32).config
    assert config.decoder.windows == (None, None, 3, None)
    assert config.encoder.windows == (None, None, 3)


@pytest.mark.parametrize("mark", [{"is_turbo": True}, {"model_version": "turbo"}])
def test_a_turbo_model_is_known_by_its_configuration(folder: Path, mark: dict) -> None:
    assert not open_model(folder).config.is_turbo
    set_keys(folder / "transformer" / "config.json", **mark)
    assert open_model(folder).config.is_turbo


def test_every_part_is_in_the_fingerprint(folder: Path) -> None:
    seen = {fingerprint(locate(folder))}
    for module in (*PREFIXES, "vae"):
        change(folder / module / WEIGHTS, lambda t: t.update({n: 2 * v for n, v in t.items()}))
        seen.add(fingerprint(locate(folder)))
    change(folder / "text_encoder" / "model.safetensors", lambda t: t.update({n: 2 * v for n, v in t.items()}))
    seen.add(fingerprint(locate(folder)))
    set_keys(folder / "tokenizer" / "tokenizer.json", version="1.1")
    seen.add(fingerprint(locate(folder)))
    for module in PREFIXES:
        set_keys(folder / module / "config.json", sliding_window=5)
    seen.add(fingerprint(locate(folder)))
    set_keys(folder / "transformer" / "config.json", is_turbo=True)
    seen.add(fingerprint(locate(folder)))
    assert len(seen) == 10


def test_the_levels_that_diffusers_does_not_write(tmp_path: Path, parts: Parts) -> None:
    """Its default configuration holds null."""
    audio = AceStepAudioTokenizer(**{**parts.audio_tokenizer.config, "fsq_input_levels": None})
    folder = save_pipeline(tmp_path / "ace", replace(parts, audio_tokenizer=audio))
    assert json.loads((folder / "audio_tokenizer" / "config.json").read_text())["fsq_input_levels"] is None
    assert verify(locate(folder)).fsq_levels == (8, 8, 8, 5, 5, 5)
