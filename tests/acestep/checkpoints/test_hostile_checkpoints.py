"""Checkpoint folders made to do harm: each is one CheckpointError, before anything of their size is built."""

import json
import os
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acestep.checkpoints.checkpoint import fingerprint
from acestep.checkpoints.folders import locate
from acestep.checkpoints.hub import find
from acestep.checkpoints.json_files import MAX_JSON_BYTES, read_json
from acestep.checkpoints.lora import open_adapter
from acestep.checkpoints.qwen3 import PATTERNS, open_tokenizer
from acestep.checkpoints.safetensors_files import read_shapes, weights_are_in
from acestep.checkpoints.verify import verify
from acestep.errors import CheckpointError
from acestep.model.config_values import MAX_LAYERS
from tests import miniature

MODEL, TEXT, AUTOENCODER = "acestep-v15-turbo", "Qwen3-Embedding-0.6B", "vae"
QUICK_S = 10.0  # for what takes milliseconds


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the miniature bundle, to be broken."""
    return Path(shutil.copytree(miniature.FOLDER, tmp_path / "checkpoints"))


def refused(folder: Path, match: str = ".") -> str:
    """The message of the error that opening a bundle ends with."""
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=match) as raised:
        verify(locate(folder, "turbo"))
    assert time.monotonic() - began < QUICK_S
    return str(raised.value)


def set_keys(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize("value", [10**12, 10**8, 20_000, MAX_LAYERS, -1, 0, True, "4", 4.0, float("nan"), [4]])
@pytest.mark.parametrize(
    ("part", "key"),
    [
        (MODEL, "num_hidden_layers"),
        (MODEL, "num_lyric_encoder_hidden_layers"),
        (MODEL, "num_attention_pooler_hidden_layers"),
        (TEXT, "num_hidden_layers"),
    ],
)
def test_numbers_of_layers(folder: Path, part: str, key: str, value: object) -> None:
    set_keys(folder / part / "config.json", **{key: value, "layer_types": None})
    refused(folder, "layers")
    if not isinstance(value, int) or value > MAX_LAYERS:
        with pytest.raises(CheckpointError):
            fingerprint(locate(folder, "turbo"))


@pytest.mark.parametrize("value", [10**12, 10**6, -1, 0, True, "64", 1e400, float("nan"), None])
@pytest.mark.parametrize(
    ("part", "key"),
    [
        (MODEL, "hidden_size"),
        (MODEL, "intermediate_size"),
        (MODEL, "num_attention_heads"),
        (MODEL, "num_key_value_heads"),
        (MODEL, "head_dim"),
        (MODEL, "text_hidden_dim"),
        (MODEL, "patch_size"),
        (MODEL, "pool_window_size"),
        (MODEL, "timbre_fix_frame"),
        (TEXT, "hidden_size"),
        (TEXT, "num_attention_heads"),
        (TEXT, "vocab_size"),
        (AUTOENCODER, "encoder_hidden_size"),
        (AUTOENCODER, "decoder_channels"),
    ],
)
def test_sizes(folder: Path, part: str, key: str, value: object) -> None:
    if value is None and key == "timbre_fix_frame":
        pytest.skip("has a default")
    set_keys(folder / part / "config.json", **{key: value})
    refused(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"fsq_input_levels": [1] * 6},
        {"fsq_input_levels": [10**9] * 6},
        {"fsq_input_levels": [8] * 100_000},
        {"num_attention_heads": 3, "num_key_value_heads": 2},
        {"layer_types": ["full_attention" * 100_000]},
    ],
    ids=lambda values: " ".join(values),
)
def test_values_that_nothing_can_be_computed_with(folder: Path, values: dict[str, object]) -> None:
    set_keys(folder / MODEL / "config.json", **values)
    assert len(refused(folder)) < 1000


def test_an_autoencoder_of_many_layers(folder: Path) -> None:
    for count in (500, 20_000):
        ones = [1] * count
        set_keys(folder / AUTOENCODER / "config.json", channel_multiples=ones, downsampling_ratios=ones)
        refused(folder)


@pytest.mark.parametrize(
    "file",
    [
        f"{MODEL}/config.json",
        f"{MODEL}/model.safetensors.index.json",
        f"{AUTOENCODER}/config.json",
        f"{TEXT}/config.json",
        f"{TEXT}/tokenizer.json",
    ],
)
def test_brackets_nested_too_deep(folder: Path, file: str) -> None:
    for content in (nested(200_000), "[" * 200_000, nested(900)):
        (folder / file).write_text(content)
        refused(folder)


def test_brackets_nested_too_deep_in_an_adapter(tmp_path: Path) -> None:
    tensors = {f"layers.0.self_attn.q_proj.lora_{part}.weight": torch.zeros(2, 2) for part in "AB"}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(nested(200_000))
    with pytest.raises(CheckpointError):
        open_adapter(tmp_path)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(tensors, file, {"lora_adapter_metadata": nested(200_000)})
    with pytest.raises(CheckpointError, match="no JSON"):
        open_adapter(file)


def test_an_adapter_of_many_layers_is_read_quickly(tmp_path: Path) -> None:
    names = [f"layers.{k}.self_attn.q_proj.lora_{part}.weight" for k in range(20_000) for part in "AB"]
    empty = {name: {"dtype": "F32", "shape": [0, 4], "data_offsets": [0, 0]} for name in names}
    head = json.dumps(empty).encode()
    file = tmp_path / "lora.safetensors"
    file.write_bytes(struct.pack("<Q", len(head)) + head)
    began = time.monotonic()
    open_adapter(file)
    assert time.monotonic() - began < QUICK_S


@pytest.mark.parametrize("rank", [10**9, 0, -1, True, "4", float("nan"), None])
def test_ranks(folder: Path, rank: object) -> None:
    lora = folder / "lora"
    lora.mkdir()
    width = json.loads((folder / MODEL / "config.json").read_text())["hidden_size"]
    save_file(
        {
            "layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(2, width),
            "layers.0.self_attn.q_proj.lora_B.weight": torch.zeros(width, 2),
        },
        lora / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (lora / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError):
        verify(locate(folder, "turbo"), lora)


OUTSIDE = "safetensors-to-be.txt"


def named(to: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": to}}))

    return change


def linked(model: Path) -> None:
    file = model / "model.safetensors"
    file.unlink()
    file.symlink_to(model.parent / OUTSIDE)


def linked_shard(model: Path) -> None:
    (model / "shard.safetensors").symlink_to(model.parent / OUTSIDE)
    named("shard.safetensors")(model)


def looped(model: Path) -> None:
    file = model / "model.safetensors"
    file.unlink()
    file.symlink_to(file.name)


@pytest.mark.parametrize(
    "change",
    [
        named(f"../{OUTSIDE}"),
        named(f"x/../../{OUTSIDE}"),
        named("/dev/zero"),
        named(f"..\\{OUTSIDE}"),
        named(""),
        named("."),
        named(".."),
        named("a\0b"),
        linked,
        linked_shard,
        looped,
    ],
)
def test_weights_outside_of_the_folder(folder: Path, change: Callable[[Path], None]) -> None:
    outside = folder / OUTSIDE
    outside.write_text("what somebody else needs")
    change(folder / MODEL)
    assert f"delete {outside}" not in refused(folder)
    named(str(outside))(folder / MODEL)
    assert "delete" not in refused(folder)


def test_what_is_damaged_in_the_folder_is_to_be_deleted(folder: Path) -> None:
    file = folder / MODEL / "model.safetensors"
    file.write_text("no weights")
    assert f"delete {file} and fetch it again" in refused(folder)


def test_links_of_a_hub_cache_are_its_own(tmp_path: Path) -> None:
    """As the hub's library lays its cache out: content in ``blobs``, names in ``snapshots``."""
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    shutil.copytree(miniature.FOLDER, snapshot)
    blobs.mkdir()
    for file in [path for path in snapshot.rglob("*") if path.is_file()]:
        blob = blobs / f"{len(os.listdir(blobs)):040x}"
        file.rename(blob)
        file.symlink_to(os.path.relpath(blob, file.parent))
    model = snapshot / MODEL
    half = load_file(model / "model.safetensors")
    shards = {"one.safetensors": {}, "two.safetensors": {}}
    for k, (name, tensor) in enumerate(half.items()):
        shards[list(shards)[k % 2]][name] = tensor
    for name, tensors in shards.items():
        save_file(tensors, blobs / name)
        (model / name).symlink_to(f"../../../blobs/{name}")
    weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    verify(find(str(snapshot), "turbo"))
    blobs.rename(tmp_path / "disk")  # which is larger
    blobs.symlink_to("../disk")
    verify(find(str(snapshot), "turbo"))
    assert weights_are_in(model)
    (blobs / "one.safetensors").write_text("no weights")
    assert f"delete {(blobs / 'one.safetensors').resolve()} and" in refused(snapshot)


@pytest.mark.parametrize(
    "name", [f"{MODEL}/silence_latent.pt", f"{AUTOENCODER}/config.json", f"{TEXT}/config.json"]
)
def test_a_pipe_is_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match="is no file"):
        fingerprint(locate(folder, "turbo"))


def test_a_file_that_never_ends(tmp_path: Path) -> None:
    (tmp_path / "device.json").symlink_to("/dev/zero")
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    for name in ("device.json", "large.json"):
        with pytest.raises(CheckpointError):
            read_json(tmp_path / name)


def test_headers_of_a_size_of_their_own(folder: Path) -> None:
    file = folder / MODEL / "model.safetensors"
    for size, content in ((1 << 60, b"{}"), (90_000_000, b'{"a' + b" " * 1000)):
        file.write_bytes(struct.pack("<Q", size) + content)
        refused(folder, "damaged")
        with pytest.raises(CheckpointError):
            read_shapes(file.parent, "model")


def split_at(pattern: dict[str, str]) -> dict[str, object]:
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


GROWS = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}


@pytest.mark.parametrize(
    ("section", "part"),
    [
        ("pre_tokenizer", split_at({"Regex": "(x+x+)+y"})),  # exponential, and a panic at the library's limit
        ("pre_tokenizer", split_at({"Regex": "(x|xx)*y|z"})),
        ("pre_tokenizer", split_at({"Regex": "("})),
        ("pre_tokenizer", split_at({"String": "x"})),
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [split_at({"Regex": "(x+x+)+y"})]}),
        ("normalizer", {"type": "Sequence", "normalizers": [GROWS] * 60}),  # 2^60 letters of one
        ("normalizer", {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": ""}),
        ("normalizer", {"type": "Prepend", "prepend": "x"}),
    ],
)
def test_tokenizers_that_never_end(folder: Path, section: str, part: dict[str, object]) -> None:
    set_keys(folder / TEXT / "tokenizer.json", **{section: part})
    refused(folder, "tokenizer.json")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_of_qwen_are_read(folder: Path, pattern: str) -> None:
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    parts = {"type": "Sequence", "pretokenizers": [split_at({"Regex": pattern}), level]}
    set_keys(folder / TEXT / "tokenizer.json", pre_tokenizer=parts, normalizer={"type": "NFC"})
    verify(locate(folder, "turbo"))
    began = time.monotonic()
    tokenizer = open_tokenizer(folder / TEXT / "tokenizer.json")
    for text in ("x" * 20_000, " " * 20_000, "\n" * 20_000, "1 " * 10_000, "'s" * 10_000, "-\n" * 10_000):
        assert tokenizer.encode(text).ids
    assert time.monotonic() - began < QUICK_S


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
def test_a_configuration_names_no_code(folder: Path, key: str) -> None:
    """Transformers fetches an attention of the form owner/name from the hub and runs it."""
    before = fingerprint(locate(folder, "turbo"))
    set_keys(folder / TEXT / "config.json", **{key: "owner/attention"}, auto_map={"AutoModel": "x.Y"})
    verify(locate(folder, "turbo"))
    assert fingerprint(locate(folder, "turbo")) == before
