"""LoRA adapters: merged as the formula and the peft library say, and refused where they are something else."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from acestep.checkpoints.checkpoint import fingerprint, load_model
from acestep.checkpoints.folders import locate
from acestep.checkpoints.lora import open_adapter
from acestep.checkpoints.verify import verify
from acestep.errors import CheckpointError, RequestError
from acestep.handler import AceStepHandler
from acestep.model.ace_step import AceStepModel
from tests import miniature
from tests.parity.cases import CPU

RANK, ALPHA = 4, 6
PLAIN = {
    "peft_type": "LORA",
    "r": RANK,
    "lora_alpha": ALPHA,
    "bias": "none",
    "target_modules": ["q_proj", "o_proj"],
}
LAYERS = ("layers.0.self_attn.q_proj", "layers.3.cross_attn.o_proj", "layers.2.cross_attn.k_proj")


@pytest.fixture(scope="module")
def base() -> AceStepModel:
    return load_model(miniature.FOLDER / "acestep-v15-base", CPU, torch.float32)


def pairs(base: AceStepModel) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer -> A ``[rank, in]``, B ``[out, rank]``."""
    draw = torch.Generator().manual_seed(1)
    return {
        layer: (torch.randn(RANK, w.shape[1], generator=draw), torch.randn(w.shape[0], RANK, generator=draw))
        for layer in LAYERS
        for w in (base.decoder.get_parameter(f"{layer}.weight"),)
    }


def write(
    folder: Path, base: AceStepModel, key: str = "base_model.model.{}.lora_{}.weight", **changes: object
) -> Path:
    """An adapter folder; ``changes`` to its configuration."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(PLAIN | changes))
    tensors = {}
    for layer, (down, up) in pairs(base).items():
        tensors |= {key.format(layer, "A"): down, key.format(layer, "B"): up}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def merged(adapter: Path, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    folder = miniature.FOLDER / "acestep-v15-base"
    return load_model(folder, CPU, dtype, adapter=adapter, adapter_scale=scale).decoder.state_dict()


@pytest.mark.parametrize(
    "key",
    [
        "base_model.model.{}.lora_{}.weight",
        "base_model.model.decoder.{}.lora_{}.weight",
        "base_model.model.{}.lora_{}.default.weight",
        "decoder.{}.lora_{}.weight",
    ],
)
@pytest.mark.parametrize(("scale", "rslora"), [(1.0, False), (0.3, False), (1.0, True)])
def test_weights_are_those_of_the_formula(
    tmp_path: Path, base: AceStepModel, key: str, scale: float, rslora: bool
) -> None:
    ours = merged(write(tmp_path / "lora", base, key, use_rslora=rslora), scale)
    factor = scale * ALPHA / (math.sqrt(RANK) if rslora else RANK)
    for name, weight in base.decoder.state_dict().items():
        layer = name.removesuffix(".weight")
        if layer in LAYERS:
            down, up = pairs(base)[layer]
            wanted = weight.double() + factor * up.double() @ down.double()
            torch.testing.assert_close(ours[name].double(), wanted, rtol=0, atol=1e-5)
        else:
            assert torch.equal(ours[name], weight), name


def test_half_precision_is_rounded_once(tmp_path: Path, base: AceStepModel) -> None:
    adapter = write(tmp_path / "lora", base)
    exact, rounded = merged(adapter), merged(adapter, dtype=torch.bfloat16)
    for layer in LAYERS:
        down, up = pairs(base)[layer]
        name = f"{layer}.weight"
        assert torch.equal(rounded[name], exact[name].bfloat16())
        twice = base.decoder.get_parameter(name).bfloat16() + (ALPHA / RANK * up @ down).bfloat16()
        assert not torch.equal(rounded[name], twice)


def test_scale_zero_is_no_adapter(tmp_path: Path, base: AceStepModel) -> None:
    ours = merged(write(tmp_path / "lora", base), scale=0.0)
    assert all(torch.equal(ours[name], weight) for name, weight in base.decoder.state_dict().items())


@pytest.mark.parametrize("rslora", [False, True])
def test_peft_merges_its_own_folder_to_the_same_weights(tmp_path: Path, base: AceStepModel, rslora: bool) -> None:
    config = LoraConfig(
        r=5, lora_alpha=7, use_rslora=rslora, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]
    )
    decoder = copy.deepcopy(base.decoder)
    theirs = get_peft_model(decoder, config)
    torch.manual_seed(3)
    for name, weight in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight)
    theirs.save_pretrained(tmp_path / "lora")
    ours, wanted = merged(tmp_path / "lora"), theirs.merge_and_unload().state_dict()
    assert ours.keys() == wanted.keys()
    changed = 0
    for name, weight in wanted.items():
        torch.testing.assert_close(ours[name], weight, rtol=0, atol=2e-6)
        changed += not torch.equal(weight, base.decoder.state_dict()[name])
    assert changed == 4 * 2 * 4  # layers, attentions, projections


def test_handler_hears_the_adapter(tmp_path: Path, base: AceStepModel) -> None:
    adapter = write(tmp_path / "lora", base)
    handler = AceStepHandler.from_checkpoint(miniature.BASE, device="cpu", adapter=adapter, adapter_scale=0.5)
    wanted = merged(adapter, 0.5)
    assert all(torch.equal(wanted[name], weight) for name, weight in handler.model.decoder.state_dict().items())
    plain = AceStepHandler.from_checkpoint(miniature.BASE, device="cpu")
    assert not all(torch.equal(a, b) for a, b in zip(handler.null.outputs, plain.null.outputs, strict=True))


def test_fingerprint_holds_weights_configuration_and_scale(tmp_path: Path, base: AceStepModel) -> None:
    folders, adapter = locate(miniature.FOLDER, "base"), write(tmp_path / "lora", base)
    seen = [fingerprint(folders), fingerprint(folders, adapter), fingerprint(folders, adapter, 0.5)]
    write(tmp_path / "stronger", base, lora_alpha=7)
    seen.append(fingerprint(folders, tmp_path / "stronger"))
    rewrite(tmp_path / "lora", lambda tensors: tensors.update({n: 2 * t for n, t in tensors.items()}))
    seen.append(fingerprint(folders, adapter))
    assert len(set(seen)) == 5
    assert fingerprint(folders, adapter, 0.0) == seen[0]
    raw = PLAIN | {"inference_mode": True, "base_model_name_or_path": "elsewhere"}
    (adapter / "adapter_config.json").write_text(json.dumps(raw))
    assert fingerprint(folders, adapter) == seen[-1]


def rewrite(folder: Path, edit: Callable[[dict], object]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


FIRST = f"base_model.model.{LAYERS[0]}.lora_A.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(FIRST), "1 missing: layers.0.self_attn.q_proj.lora_A"),
        (lambda t: t.pop(FIRST.replace("_A", "_B")), "1 missing: layers.0.self_attn.q_proj.lora_B"),
        (lambda t: t.update(surplus=torch.zeros(1)), "holds 1 tensors such as surplus; expected LoRA pairs"),
        (
            lambda t: t.update({FIRST.replace("self_attn", "mlp").replace("q_", "up_"): torch.zeros(1)}),
            "1 missing: layers.0.mlp.up_proj.lora_B",
        ),
        (
            lambda t: t.update({f"text_encoder.layers.0.lora_{part}.weight": torch.zeros(1, 1) for part in "AB"}),
            "does not fit the model; 2 unexpected: text_encoder.layers.0.lora_A",
        ),
        (
            lambda t: t.update({f"proj_in.lora_{part}.weight": torch.zeros(RANK, RANK) for part in "AB"}),
            "does not fit the model; 2 unexpected: proj_in.lora_A",
        ),
        (lambda t: t.update({"layers.0.mlp.up_proj.lokr_w1": torch.zeros(1)}), "is a LoKr adapter"),
        (lambda t: t.update({"layers.0.mlp.up_proj.hada_w1_a": torch.zeros(1)}), "is a LoHa adapter"),
        (lambda t: t.update({FIRST.replace("lora_A.weight", "dora_scale"): torch.zeros(1)}), "is a DoRA adapter"),
        (
            lambda t: t.update({FIRST.replace("lora_A", "lora_magnitude_vector"): torch.zeros(1)}),
            "is a DoRA adapt",
        ),
        (
            lambda t: t.update({FIRST.replace("A.weight", "B.bias"): torch.zeros(1)}),
            "holds 1 tensors such as .*bias",
        ),
        (lambda t: t.update({FIRST: torch.zeros(())}), r"is \[\], expected \[4, 64\]"),
        (
            lambda t: t.update({FIRST.replace("lora_A.weight", "alpha"): torch.tensor(7.0)}),
            "is 7 in the weights and 6 ",
        ),
        (lambda t: t.update({FIRST.replace("lora_A.weight", "alpha"): torch.tensor(math.nan)}), "not one finite"),
        (lambda t: t.update({FIRST.replace("lora_A.weight", "alpha"): torch.ones(2)}), "not one finite"),
        (lambda t: t.update({FIRST.replace("model.layers", "model.decoder.layers"): torch.zeros(1)}), "each once"),
        (lambda t: t.clear(), "holds no tensor"),
        (
            lambda t: t.update({FIRST: torch.zeros(RANK, 48)}),
            r"does not fit the model; 1 of another shape: .*lora_A is \[4, 48\], expected \[4, 64\].*2B or XL",
        ),
        (lambda t: t.update({FIRST: torch.zeros(RANK + 1, 64)}), r"is \[5, 64\], expected \[4, 64\]"),
        (
            lambda t: t.update({n.replace("layers.3", "layers.9"): t.pop(n) for n in list(t)}),
            "does not fit the model; 2 unexpected: layers.9.cross_attn.o_proj.lora_A",
        ),
        (lambda t: t.update({FIRST: t[FIRST].to(torch.float64)}), "unsupported dtype: .*F64"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, base: AceStepModel, edit: Callable, message: str) -> None:
    adapter = write(tmp_path / "lora", base)
    rewrite(adapter, edit)
    with pytest.raises(CheckpointError, match=message):
        verify(locate(miniature.FOLDER, "base"), adapter)
    with pytest.raises(CheckpointError, match=message):
        merged(adapter, scale=0.0)


@pytest.mark.parametrize("part", "AB")
def test_half_a_pair_shows_without_a_model(tmp_path: Path, base: AceStepModel, part: str) -> None:
    adapter = write(tmp_path / "lora", base)
    rewrite(adapter, lambda tensors: tensors.pop(FIRST.replace("lora_A", f"lora_{part}")))
    with pytest.raises(CheckpointError, match=f"1 missing: {LAYERS[0]}.lora_{part}; fetch it again"):
        open_adapter(adapter)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["proj_out"]},
        {"fan_in_fan_out": True},
        {"init_lora_weights": "pissa"},
        {"lora_bias": True},
        {"layer_replication": [[0, 2]]},
    ],
)
def test_kinds_of_lora_that_mean_something_else(tmp_path: Path, base: AceStepModel, changes: dict) -> None:
    adapter = write(tmp_path / "lora", base, **changes)
    (name, value), *_ = changes.items()
    with pytest.raises(CheckpointError) as caught:
        merged(adapter)
    assert f"{name} = {value!r} is not supported; merge it into the checkpoint" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'; only 'LORA' is supported"),
        ({"r": 0}, "r is 0 and lora_alpha 6"),
        ({"r": "8"}, "r is '8'"),
        ({"lora_alpha": None}, "lora_alpha None"),
        ({"lora_alpha": math.nan}, "lora_alpha nan"),
        ({"lora_alpha": 10**400}, "lora_alpha 1000"),
        ({"r": True}, "r is True"),
        ({"rank_pattern": {"q_proj": 8}}, r"is \[4, 64\], expected \[8, 64\]"),
        ({"rank_pattern": {"q_proj": "x"}}, "r is 'x'"),
        ({"rank_pattern": ["q_proj"]}, r"rank_pattern is \['q_proj'\]; expected values by layer"),
        ({"alpha_pattern": {"(q+)+_proj": 8}}, r"alpha_pattern = '\(q\+\)\+_proj' is not supported"),
        ({"alpha_pattern": {"q_proj": None}}, "lora_alpha None"),
    ],
)
def test_other_configurations(tmp_path: Path, base: AceStepModel, changes: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        merged(write(tmp_path / "lora", base, **changes))


def test_trivial_options_are_read(tmp_path: Path, base: AceStepModel) -> None:
    trivial = {"rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None, "use_dora": False}
    merged(write(tmp_path / "lora", base, **trivial, init_lora_weights=True, layers_to_transform=None))


def test_folders_of_something_else(tmp_path: Path, base: AceStepModel) -> None:
    adapter = write(tmp_path / "lora", base)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"found adapter_model\.bin: pickles are refused, convert to safet"):
        merged(adapter)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin is a pickle, which is refused; convert it"):
        merged(adapter)
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"no LoRA in this folder; one holds adapter_config\.json"):
        merged(adapter)
    (adapter / "lokr_weights.safetensors").touch()
    for path in (adapter, adapter / "lokr_weights.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="is a LoKr adapter, which is not supported; give a LoRA"):
            merged(path)
    for name in ("nowhere", str(tmp_path / "nowhere"), "runs/nowhere.safetensors"):
        with pytest.raises(
            CheckpointError, match=r"nowhere\S*': no such file or folder; give a LoRA file or folder"
        ):
            AceStepHandler.from_checkpoint(miniature.BASE, device="cpu", adapter=name)


def test_an_adapter_for_another_size_names_three_layers(tmp_path: Path, base: AceStepModel) -> None:
    adapter = write(tmp_path / "lora", base)
    rewrite(adapter, lambda t: t.update({n: torch.zeros(v.shape[0], v.shape[1] + 1) for n, v in t.items()}))
    with pytest.raises(CheckpointError, match=r"6 of another shape: .*, and 3 more") as caught:
        verify(locate(miniature.FOLDER, "base"), adapter)
    assert str(caught.value).count("expected [") == 3


@pytest.mark.parametrize("scale", [-0.1, 1.01, math.nan, "x", None])
def test_scales_out_of_range(tmp_path: Path, base: AceStepModel, scale: float) -> None:
    with pytest.raises(RequestError, match=r"adapter_scale (\S+ )?is out of range; use 0"):
        merged(write(tmp_path / "lora", base), scale)
