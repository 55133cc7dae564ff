"""Opening checkpoints: layouts, dtypes, and one clear error for each way to be broken."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acestep.checkpoints import hub
from acestep.checkpoints.checkpoint import fingerprint, load_model, load_silence, open_autoencoder, open_model
from acestep.checkpoints.folders import locate
from acestep.checkpoints.verify import verify
from acestep.errors import CheckpointError
from acestep.handler import AceStepHandler
from tests import miniature
from tests.refusals import raises

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the miniature bundle, to be broken."""
    return Path(shutil.copytree(miniature.FOLDER, tmp_path / "checkpoints"))


def rewrite(file: Path, change) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def test_miniature_is_the_same_wherever_it_is_written(tmp_path: Path) -> None:
    miniature.write(tmp_path)
    assert fingerprint(locate(tmp_path, "base")) == fingerprint(locate(miniature.FOLDER, "base"))
    assert fingerprint(locate(tmp_path, "base")) != fingerprint(locate(tmp_path, "turbo"))
    assert sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) < 6_000_000


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_dtypes_and_shards(folder: Path, dtype: torch.dtype) -> None:
    model = folder / "acestep-v15-base"
    whole = load_model(model, CPU, torch.float32).state_dict()
    tensors = {k: v.to(dtype) for k, v in load_file(model / "model.safetensors").items()}
    (model / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, model / file)
    weight_map = {name: file for file, part in halves.items() for name in part}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    again = load_model(model, CPU, torch.float32).state_dict()
    assert whole.keys() == again.keys()
    tolerance = 1e-3 if dtype == torch.float16 else 0.0
    assert all((whole[name] - again[name]).abs().max() <= tolerance for name in whole)
    (model / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: no such file"):
        open_model(model)


def test_everything_wrong_with_the_tensors_is_listed_at_once(folder: Path) -> None:
    def break_three(tensors: dict) -> None:
        del tensors["decoder.layers.1.mlp.up_proj.weight"]
        tensors["decoder.surplus"] = torch.zeros(1)
        tensors["decoder.norm_out.weight"] = torch.zeros(7)

    rewrite(folder / "acestep-v15-turbo" / "model.safetensors", break_three)
    with pytest.raises(CheckpointError) as caught:
        open_model(folder / "acestep-v15-turbo")
    message = str(caught.value)
    assert "1 missing: decoder.layers.1.mlp.up_proj.weight" in message
    assert "1 unexpected: decoder.surplus" in message
    assert "decoder.norm_out.weight is [7], expected [64]" in message


def test_autoencoder_with_newer_weight_norm_names(folder: Path) -> None:
    def rename(tensors: dict) -> None:
        for name in [n for n in tensors if n.endswith(("weight_g", "weight_v"))]:
            which = "0" if name.endswith("g") else "1"
            tensors[f"{name[:-8]}parametrizations.weight.original{which}"] = tensors.pop(name)

    rewrite(folder / "vae" / "diffusion_pytorch_model.safetensors", rename)
    open_autoencoder(folder / "vae")


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "acestep-v15-base" / "model.safetensors").rename(folder / "acestep-v15-base" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"found pytorch_model\.bin: pickles are refused"):
        open_model(folder / "acestep-v15-base")


def test_a_pickle_in_the_silence_file_does_not_run(folder: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    file = folder / "acestep-v15-base" / "silence_latent.pt"
    torch.save({"latent": Payload()}, file)
    with pytest.raises(CheckpointError, match="not readable as a plain tensor"):
        load_silence(file.parent, 8)
    file.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError, match="not readable as a plain tensor"):
        load_silence(file.parent, 8)
    with pytest.raises(CheckpointError) as caught:
        load_silence(file.parent, 8)
    assert "weights_only" not in str(caught.value), "torch advises to run it"
    assert not (tmp_path / "ran").exists()


def test_damage(folder: Path) -> None:
    weights = folder / "acestep-v15-base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:10_000])
    with pytest.raises(CheckpointError, match=f"damaged .* delete {weights} and fetch it again"):
        open_model(weights.parent)
    (folder / "acestep-v15-turbo" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not readable as JSON"):
        open_model(folder / "acestep-v15-turbo")
    (folder / "vae" / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with raises(CheckpointError, "unsupported_weights", "_class_name", "AutoencoderKL"):
        open_autoencoder(folder / "vae")


def test_text_encoder_keys_with_prefix_and_missing_ones(folder: Path) -> None:
    plain = AceStepHandler.from_checkpoint(folder, "base", "cpu").text_encoder.prompt_states("jazz")
    weights = folder / "Qwen3-Embedding-0.6B" / "model.safetensors"
    rewrite(weights, lambda tensors: tensors.update({f"model.{n}": tensors.pop(n) for n in list(tensors)}))
    prefixed = AceStepHandler.from_checkpoint(folder, "base", "cpu").text_encoder.prompt_states("jazz")
    assert torch.equal(plain, prefixed)
    rewrite(weights, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(CheckpointError, match=r"norm\.weight"):
        AceStepHandler.from_checkpoint(folder, "base", "cpu")


@pytest.mark.parametrize(
    ("path", "variant", "kind", "remedy"),
    [
        ("", None, "unknown_model", "name one with variant="),
        ("", "xl_turbo", "unknown_model", "it holds base, turbo"),
        ("vae", None, "damaged_weights", "is this an ACE-Step 1.5 model"),
        ("nowhere", None, "unknown_model", ""),
    ],
)
def test_where_to_look(folder: Path, path: str, variant: str | None, kind: str, remedy: str) -> None:
    with raises(CheckpointError, kind, remedy=remedy):
        AceStepHandler.from_checkpoint(folder / path, variant, "cpu")


def test_a_named_model_is_one_variant() -> None:
    with raises(CheckpointError, "unknown_model", "variant", "turbo"):
        AceStepHandler.from_checkpoint("demo", "turbo", "cpu")


def test_a_model_is_turbo_by_its_published_name_too(folder: Path) -> None:
    """A hub cache names folders by hash."""
    model = (folder / "acestep-v15-base").rename(folder / "0123abcd")
    raw = json.loads((model / "config.json").read_text())
    del raw["is_turbo"], raw["model_version"]
    (model / "config.json").write_text(json.dumps(raw))
    assert not open_model(model).config.is_turbo
    assert open_model(model, "turbo_shift1").config.is_turbo
    assert open_model(model, "me/my-turbo").config.is_turbo
    assert not open_model(model, "turbo-labs/plain").config.is_turbo
    # A version says what it is; a false alone says nothing, since diffusers writes one where nobody set it.
    for said, turbo in (({"model_version": "base"}, False), ({"is_turbo": False}, True)):
        (model / "config.json").write_text(json.dumps(raw | said))
        assert open_model(model, "turbo_shift1").config.is_turbo == turbo


def test_bundle_and_model_folder_are_both_accepted(folder: Path) -> None:
    by_variant = AceStepHandler.from_checkpoint(folder, "turbo", "cpu")
    by_folder = AceStepHandler.from_checkpoint(folder / "acestep-v15-turbo", device="cpu")
    assert by_variant.folders == by_folder.folders
    assert by_folder.is_turbo
    for same in ("turbo", "acestep-v15-turbo", ""):
        assert hub.find(str(folder / "acestep-v15-turbo"), same) == by_folder.folders
    with raises(CheckpointError, "unknown_model", remedy="leave out variant 'base'"):
        AceStepHandler.from_checkpoint(folder / "acestep-v15-turbo", "base", "cpu")


def test_what_is_empty_is_not_given() -> None:
    assert not AceStepHandler.from_checkpoint("demo", "", "cpu", adapter="").is_turbo
    with raises(CheckpointError, "unknown_model", "model", remedy="give one of demo, demo_turbo, turbo"):
        hub.find("")
    with raises(CheckpointError, "unknown_model", "language_model", remedy="give one of lm_0.6b"):
        hub.find_language_model("")
    with raises(CheckpointError, "missing_weights"):
        hub.find_adapter("")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": None}, "wrong kind"),
        ({"fsq_input_levels": None}, "wrong kind"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries for 4 layers"),
        ({"model_type": "llama"}, "model_type 'llama' is not supported; allowed: acestep"),
        ({"in_channels": 8}, "in_channels 8 is not 3 x 8"),
        ({"fsq_input_num_quantizers": 2}, "only one is supported"),
        ({"rope_theta": "x"}, "rope_theta is 'x', expected a number above 0"),
        ({"rms_norm_eps": "x"}, "rms_norm_eps is 'x', expected a number above 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan, expected a number above 0"),
        ({"sliding_window": "x"}, "sliding_window is 'x', expected a whole number above 0"),
        ({"sliding_window": None}, "sliding_window is None, expected a whole number above 0"),
        ({"hidden_size": True}, "hidden_size is True, expected a whole number above 0"),
        ({"layer_types": 5}, "layer_types is 5, expected a list"),
        ({"hidden_size": 10**9, "intermediate_size": 10**12}, "hidden_size is 1000000000 and the largest"),
    ],
)
def test_configurations_of_something_else(folder: Path, change: dict, message: str) -> None:
    file = folder / "acestep-v15-base" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        open_model(file.parent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"downsampling_ratios": 5}, "downsampling_ratios is 5, expected a list of whole numbers above 0"),
        ({"downsampling_ratios": ["a"]}, r"downsampling_ratios is \['a'\], expected a list of whole numbers"),
        ({"downsampling_ratios": [1920]}, "5 channel_multiples, 1 downsampling_ratios"),
        ({"encoder_hidden_size": -4}, "encoder_hidden_size is -4, expected a whole number above 0"),
        ({"encoder_hidden_size": "x"}, "encoder_hidden_size is 'x', expected a whole number above 0"),
    ],
)
def test_autoencoders_of_sizes_that_do_not_exist(folder: Path, change: dict, message: str) -> None:
    set_keys(folder / "vae" / "config.json", **change)
    with pytest.raises(CheckpointError, match=message):
        open_autoencoder(folder / "vae")


def set_keys(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("content", ["{}", '{"version": "1.0", "added_', '{"model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer_of_the_text_encoder(folder: Path, content: str) -> None:
    file = folder / "Qwen3-Embedding-0.6B" / "tokenizer.json"
    file.write_text(content)
    with pytest.raises(CheckpointError, match=f"{file}: not readable as a tokenizer .* delete {file} and fetch"):
        verify(locate(folder, "turbo"))
    with pytest.raises(CheckpointError, match="not readable as a tokenizer"):
        AceStepHandler.from_checkpoint(folder, "turbo", "cpu")


def test_a_tokenizer_of_another_text_encoder(folder: Path) -> None:
    file = folder / "Qwen3-Embedding-0.6B" / "tokenizer.json"
    raw = json.loads(file.read_text())
    size = json.loads((file.parent / "config.json").read_text())["vocab_size"]
    raw["added_tokens"].append(raw["added_tokens"][-1] | {"content": "<surplus>", "id": size})
    raw["model"]["vocab"]["<surplus>"] = size
    file.write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=f"vocab_size is {size}, but the highest token of .* is {size}"):
        verify(locate(folder, "turbo"))


@pytest.mark.parametrize("weight_map", [{"a": 1}, {"a": []}, []], ids=str)
def test_an_index_of_something_else(folder: Path, weight_map: object) -> None:
    model = folder / "acestep-v15-base"
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"index\.json: has no weight_map from tensors to files"):
        open_model(model)


@pytest.mark.parametrize(
    "latent",
    [
        torch.zeros(1, 8, 0),
        torch.zeros(1, 8, 50, dtype=torch.int64),
        torch.full((1, 8, 50), float("nan")),
        torch.full((1, 8, 50), float("inf"), dtype=torch.bfloat16),
    ],
    ids=["no frames", "integers", "nan", "infinite"],
)
def test_silence_of_no_use(folder: Path, latent: torch.Tensor) -> None:
    torch.save(latent, folder / "acestep-v15-base" / "silence_latent.pt")
    with pytest.raises(CheckpointError, match=r"acestep-v15-base: the silence latent has \d+ frames of torch\."):
        verify(locate(folder, "base"))


def test_fingerprint_holds_what_decides_and_nothing_else(folder: Path) -> None:
    model, encoder = folder / "acestep-v15-base", folder / "Qwen3-Embedding-0.6B"
    plain = fingerprint(locate(folder, "base"))
    for part in (model, encoder, folder / "vae"):
        set_keys(part / "config.json", torch_dtype="float16", architectures=["X"], transformers_version="9.9")
        save_file({"stray": torch.ones(1)}, part / "stray.safetensors")
    assert fingerprint(locate(folder, "base")) == plain
    seen = {plain}
    for file, change in (
        (model / "config.json", {"is_turbo": True}),
        (encoder / "config.json", {"rms_norm_eps": 1e-5}),
        (encoder / "tokenizer.json", {"version": "1.1"}),
        (folder / "vae" / "config.json", {"sampling_rate": 44_100}),
    ):
        set_keys(file, **change)
        seen.add(fingerprint(locate(folder, "base")))
    torch.save(torch.ones(1, 8, 50), model / "silence_latent.pt")
    seen.add(fingerprint(locate(folder, "base")))
    assert len(seen) == 6


def test_a_check_without_loading_finds_what_loading_would(folder: Path) -> None:
    folders = locate(folder, "turbo")
    assert verify(folders).is_turbo
    weights = folder / "Qwen3-Embedding-0.6B" / "model.safetensors"
    rewrite(weights, lambda tensors: tensors.update({"norm.weight": torch.ones(3)}))
    with pytest.raises(CheckpointError, match=r"norm\.weight is \[3\], expected \[64\]"):
        verify(folders)
    with pytest.raises(CheckpointError, match=r"norm\.weight is \[3\], expected \[64\]"):
        AceStepHandler.from_checkpoint(folder, "turbo", "cpu")


def test_parts_of_different_models_are_refused(folder: Path) -> None:
    file = folder / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sampling_rate": 44_100}))
    message = "vae: made for 44100 Hz, expected 48000 Hz"
    with pytest.raises(CheckpointError, match=message):
        verify(locate(folder, "base"))
    with pytest.raises(CheckpointError, match=message):
        AceStepHandler.from_checkpoint(folder, "base", "cpu")
