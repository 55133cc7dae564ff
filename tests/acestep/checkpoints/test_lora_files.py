"""Adapters as trainers leave them: whatever the layout, the weights are those that PEFT or diffusers merge."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from acestep.checkpoints import hub
from acestep.checkpoints.checkpoint import fingerprint, load_model
from acestep.checkpoints.folders import locate
from acestep.checkpoints.lora import open_adapter
from acestep.errors import CheckpointError
from acestep.fetch import fetch_adapter
from acestep.handler import AceStepHandler
from acestep.model.ace_step import AceStepModel
from tests import miniature
from tests.parity.cases import CPU
from tests.parity.export import make_parts, write_checkpoint

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
RANK, ALPHA = 4, 6


@pytest.fixture(scope="module")
def base() -> AceStepModel:
    return load_model(miniature.FOLDER / "acestep-v15-base", CPU, torch.float32)


def trained(base: AceStepModel, name: str = "default", **options: Any) -> PeftModel:
    """A PEFT model with random factors."""
    config = LoraConfig(**({"r": RANK, "lora_alpha": ALPHA, "target_modules": ATTENTION} | options))
    model = get_peft_model(copy.deepcopy(base.decoder), config, adapter_name=name)
    torch.manual_seed(3)
    for parameter, weight in model.named_parameters():
        if "lora_" in parameter:
            nn.init.normal_(weight)
    return model


def weights_of(model: PeftModel, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Factors by PEFT's names, rounded to ``dtype`` in the model itself too."""
    for parameter, weight in model.named_parameters():
        if "lora_" in parameter:
            weight.data = weight.data.to(dtype).float()
    found = get_peft_model_state_dict(model)
    return {name: tensor.detach().to(dtype).contiguous() for name, tensor in found.items()}


def layers_of(tensors: dict[str, Tensor]) -> list[str]:
    return sorted({name.rsplit(".lora_", 1)[0] for name in tensors})


def assert_merged(adapter: Path, model: PeftModel) -> None:
    wanted = model.merge_and_unload().state_dict()
    ours = load_model(
        miniature.FOLDER / "acestep-v15-base", CPU, torch.float32, adapter=adapter
    ).decoder.state_dict()
    assert ours.keys() == wanted.keys()
    for name, weight in wanted.items():
        torch.testing.assert_close(ours[name], weight, rtol=0, atol=2e-6, msg=name)


def comfy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """PEFT's names with an alpha for each layer."""
    return tensors | {f"{layer}.alpha": torch.tensor(float(ALPHA)) for layer in layers_of(tensors)}


def diffusion_model(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    wrapped = {name.replace("base_model.model.", "diffusion_model.decoder."): t for name, t in tensors.items()}
    return comfy(wrapped)


def kohya(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Flat names and lora_down, lora_up."""
    flat = {}
    for name, tensor in comfy(tensors).items():
        layer, _, part = name.removeprefix("base_model.model.").partition(".lora_")
        layer, _, alpha = layer.partition(".alpha") if part == "" else (layer, "", "")
        ending = {"A.weight": ".lora_down.weight", "B.weight": ".lora_up.weight", "": ".alpha"}[part + alpha]
        flat["lora_unet_" + layer.replace(".", "_") + ending] = tensor
    return flat


def old_diffusers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of diffusers before PEFT."""
    renamed = {}
    for name, tensor in comfy(tensors).items():
        for ours, theirs in (
            ("base_model.model.", "transformer."),
            ("q_proj", "to_q"),
            ("k_proj", "to_k"),
            ("v_proj", "to_v"),
            ("o_proj", "to_out.0"),
            ("lora_A", "lora.down"),
            ("lora_B", "lora.up"),
        ):
            name = name.replace(ours, theirs)
        renamed[name] = tensor
    return renamed


def other_name(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """An adapter's own name in every key."""
    return comfy({name.replace(".weight", ".my_voice.weight"): t for name, t in tensors.items()})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [comfy, diffusion_model, kohya, old_diffusers, other_name])
def test_a_single_file_that_holds_alpha(
    tmp_path: Path, base: AceStepModel, layout: Callable, dtype: torch.dtype
) -> None:
    model = trained(base)
    save_file(layout(weights_of(model, dtype)), tmp_path / "my voice_v1.2.safetensors")
    found = open_adapter(tmp_path / "my voice_v1.2.safetensors")
    assert (found.has_alpha, found.note(), len(found.pairs)) == (True, "", 4 * 2 * 4)
    assert_merged(tmp_path / "my voice_v1.2.safetensors", model)


@pytest.mark.parametrize("kind", [torch.int64, torch.float64])
def test_alpha_may_be_of_any_kind_of_number(tmp_path: Path, base: AceStepModel, kind: torch.dtype) -> None:
    model = trained(base)
    tensors = {name: t if t.dim() else t.to(kind) for name, t in comfy(weights_of(model)).items()}
    save_file(tensors, tmp_path / "x.safetensors")
    assert_merged(tmp_path / "x.safetensors", model)


@pytest.mark.parametrize("prefix", ["base_model.model.", "transformer.", ""])
def test_without_alpha_it_is_the_rank_and_that_is_said(tmp_path: Path, base: AceStepModel, prefix: str) -> None:
    model = trained(base, lora_alpha=RANK)
    tensors = {name.replace("base_model.model.", prefix): t for name, t in weights_of(model).items()}
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(tensors, file)
    assert not open_adapter(file).has_alpha
    assert "alpha = rank is taken" in open_adapter(tmp_path).note()
    for path in (file, tmp_path):
        assert_merged(path, trained(base, lora_alpha=RANK))


def test_layers_besides_attention(tmp_path: Path, base: AceStepModel) -> None:
    targets = [*ATTENTION, "gate_proj", "up_proj", "down_proj", "condition_embedder", "linear_1", "time_proj"]
    model = trained(base, target_modules=targets)
    save_file(comfy(weights_of(model)), tmp_path / "all.safetensors")
    assert_merged(tmp_path / "all.safetensors", model)


PATTERNS = {
    "rank_pattern": {"layers.0.self_attn.q_proj": 2, "o_proj": 3, "^layers.1.cross_attn.v_proj": 5},
    "alpha_pattern": {"k_proj": 1.5, "o_proj": 9},
}


@pytest.mark.parametrize("rslora", [False, True])
def test_ranks_and_alphas_by_layer(tmp_path: Path, base: AceStepModel, rslora: bool) -> None:
    model = trained(base, use_rslora=rslora, **PATTERNS)
    model.save_pretrained(tmp_path / "lora")
    assert_merged(tmp_path / "lora", model)


def test_the_fingerprint_holds_the_alpha_of_every_layer(tmp_path: Path, base: AceStepModel) -> None:
    trained(base).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    folders, seen = locate(miniature.FOLDER, "base"), set()
    for pattern in ({}, {"k_proj": 1.5}, {"k_proj": 1.25}, {"q_proj": 1.25}):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"alpha_pattern": pattern}))
        seen.add(fingerprint(folders, tmp_path))
    assert len(seen) == 4


@pytest.mark.parametrize("metadata", [True, False])
def test_what_diffusers_saves_is_what_diffusers_fuses(tmp_path: Path, metadata: bool) -> None:
    from diffusers import AceStepPipeline
    from diffusers.training_utils import _collate_lora_metadata

    parts = make_parts()
    write_checkpoint(tmp_path, parts, "base")
    transformer = parts.transformer
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    patterns = {"rank_pattern": {"layers.1.cross_attn.to_q": 2}, "alpha_pattern": {"to_k": 3}} if metadata else {}
    alpha = ALPHA if metadata else RANK
    transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=alpha, target_modules=targets, **patterns))
    torch.manual_seed(3)
    for name, weight in transformer.named_parameters():
        if "lora_" in name:
            nn.init.normal_(weight)
    told = _collate_lora_metadata({"transformer": transformer}) if metadata else {}
    AceStepPipeline.save_lora_weights(tmp_path / "lora", get_peft_model_state_dict(transformer), **told)
    assert [file.name for file in (tmp_path / "lora").iterdir()] == ["pytorch_lora_weights.safetensors"]
    transformer.fuse_lora()
    transformer.unload_lora()
    write_checkpoint(tmp_path / "fused", parts, "base")
    wanted = load_model(tmp_path / "fused" / "acestep-v15-base", CPU, torch.float32).decoder.state_dict()
    plain = tmp_path / "acestep-v15-base"
    for path in (tmp_path / "lora", tmp_path / "lora" / "pytorch_lora_weights.safetensors"):
        assert open_adapter(path).has_alpha == metadata
        ours = load_model(plain, CPU, torch.float32, adapter=path).decoder.state_dict()
        for name, weight in wanted.items():
            torch.testing.assert_close(ours[name], weight, rtol=0, atol=2e-6, msg=name)


@pytest.mark.parametrize(
    "inside", ["adapter", "final/adapter", "checkpoints/epoch_10_loss_0.1/adapter", "my_voice"]
)
def test_a_run_folder_with_one_adapter_inside(tmp_path: Path, base: AceStepModel, inside: str) -> None:
    model = trained(base)
    model.save_pretrained(tmp_path / "run" / inside)
    for name in ("training_state.pt", "optimizer.safetensors"):
        (tmp_path / "run" / name).touch()
    assert open_adapter(tmp_path / "run").path == tmp_path / "run" / inside
    assert_merged(tmp_path / "run", model)


def test_of_several_adapters_one_has_to_be_named(tmp_path: Path, base: AceStepModel) -> None:
    for inside in ("final", "best", "checkpoints/epoch_10"):
        trained(base).save_pretrained(tmp_path / inside / "adapter")
    with pytest.raises(CheckpointError) as caught:
        open_adapter(tmp_path)
    assert "holds 3 adapters, best/adapter, checkpoints/epoch_10/adapter, final/adapter; give" in str(caught.value)
    (tmp_path / "loras").mkdir()
    for name in ("one", "two"):
        save_file({"x": torch.zeros(1)}, tmp_path / "loras" / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"holds 2 adapters, one\.safetensors, two\.safetensors; give the"):
        open_adapter(tmp_path / "loras")


def test_peft_weights_are_read_with_the_configuration_beside_them(tmp_path: Path, base: AceStepModel) -> None:
    model = trained(base)
    model.save_pretrained(tmp_path)
    for path in ("adapter_model.safetensors", "adapter_config.json", "."):
        assert open_adapter(tmp_path / path).has_alpha
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "voice.safetensors")
    for path in ("voice.safetensors", "."):
        assert_merged(tmp_path / path, trained(base))


def test_peft_weights_whose_configuration_is_lost(tmp_path: Path, base: AceStepModel) -> None:
    model = trained(base, lora_alpha=RANK)
    model.save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is missing, which says how strong"):
        open_adapter(tmp_path)
    assert_merged(tmp_path / "adapter_model.safetensors", model)


def test_a_file_that_exists_is_never_called_no_such_folder(tmp_path: Path) -> None:
    for name in ("lora.pt", "lora.bin", "lora.ckpt", "lora.gguf", "lora.txt", "lora.safetensors"):
        file = tmp_path / name
        file.write_text("x")
        looks = (
            lambda file=file: open_adapter(hub.find_adapter(str(file))),
            lambda file=file: hub.find(str(file)),
            lambda file=file: hub.find_language_model(str(file)),
            lambda file=file: AceStepHandler.from_checkpoint(miniature.BASE, device="cpu", adapter=file),
        )
        for look in looks:
            with pytest.raises(CheckpointError) as caught:
                look()
            assert name in str(caught.value)
            assert "no such" not in str(caught.value)
    with pytest.raises(CheckpointError, match=r"lora\.pt is a pickle, which is refused"):
        open_adapter(tmp_path / "lora.pt")


def test_header_that_is_no_configuration(tmp_path: Path, base: AceStepModel) -> None:
    tensors = weights_of(trained(base))
    for header, message in (("{", "is no JSON"), ("[]", "is no JSON object"), ("{}", "peft_type is None")):
        save_file(tensors, tmp_path / "x.safetensors", {"lora_adapter_metadata": header})
        with pytest.raises(CheckpointError, match=message):
            open_adapter(tmp_path / "x.safetensors")


def test_python_fetch_and_folder_find_the_same_adapter(tmp_path: Path, base: AceStepModel) -> None:
    file = tmp_path / "voice.safetensors"
    save_file(comfy(weights_of(trained(base))), file)
    assert fetch_adapter(str(file), "cache", None).size == file.stat().st_size
    heard = [
        AceStepHandler.from_checkpoint(miniature.BASE, device="cpu", adapter=path).model.decoder.state_dict()
        for path in (file, str(file), tmp_path)
    ]
    for name in load_file(file):
        layer = name.removeprefix("base_model.model.").partition(".lora_")[0].removesuffix(".alpha")
        weight = heard[0][f"{layer}.weight"]
        assert not torch.equal(weight, base.decoder.state_dict()[f"{layer}.weight"])
        assert all(torch.equal(weight, other[f"{layer}.weight"]) for other in heard[1:])
