"""Names to folders, against a real HTTP server that speaks as the hub does."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from acestep.checkpoints import hub
from acestep.checkpoints.checkpoint import fingerprint
from acestep.checkpoints.folders import locate
from acestep.checkpoints.verify import verify
from acestep.errors import CheckpointError
from tests import miniature
from tests.acestep.language import miniature_lm
from tests.hub_server import Hub, serve
from tests.parity.export import make_parts
from tests.parity.pipeline_folder import save_pipeline
from tests.refusals import raises

SHARED = {"vae", "Qwen3-Embedding-0.6B"}


def point_to(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    """What HF_ENDPOINT and HF_HUB_CACHE do before Python starts."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The published bundle in small: turbo, autoencoder, text encoder, a language model."""
    folder = tmp_path / "bundle"
    miniature.write(folder)
    shutil.move(folder / "acestep-v15-base", tmp_path / "base")
    miniature_lm.write(folder / "acestep-5Hz-lm-1.7B")
    return folder


@pytest.fixture
def server(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    repos = {hub.BUNDLE: bundle, "ACE-Step/acestep-v15-base": tmp_path / "base"}
    with serve(Hub(repos)) as running:
        point_to(monkeypatch, running.endpoint, tmp_path / "cache")
        yield running


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network: nothing answers."""
    point_to(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")


def test_a_published_model_comes_with_the_shared_parts_and_nothing_else(server: Hub) -> None:
    turbo = hub.find("turbo")
    assert verify(turbo).is_turbo
    assert {name.split("/")[0] for name in server.files_sent()} == {"acestep-v15-turbo", *SHARED}
    assert not [name for name in server.files_sent() if name.endswith(".py")]
    server.asked.clear()
    base = hub.find("base")
    assert not verify(base).is_turbo
    assert (base.autoencoder, base.text_encoder) == (turbo.autoencoder, turbo.text_encoder)
    assert set(server.files_sent()) == {"config.json", "model.safetensors", "silence_latent.pt"}
    assert fingerprint(base) == fingerprint(locate(miniature.FOLDER, "base"))


def test_what_is_cached_asks_nobody(server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = hub.find("turbo")
    server.asked.clear()
    assert hub.find("turbo") == first
    assert hub.find("turbo", source="cache") == first
    assert not server.asked
    point_to(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    assert hub.find("turbo") == first
    assert hub.find("turbo", source="hub") == first  # nothing newer can be had
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.find("turbo") == first


def test_a_newer_version_is_fetched_on_demand_only(server: Hub, bundle: Path) -> None:
    first = hub.find("turbo")
    save_file({"other": torch.zeros(3)}, bundle / "acestep-v15-turbo" / "model.safetensors")
    assert hub.find("turbo") == first
    newer = hub.find("turbo", source="hub")
    assert newer.model != first.model
    assert newer.model.parents[1] == first.model.parents[1]


def test_a_broken_connection_goes_on_where_it_was(
    server: Hub, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50_000)
    file = "acestep-v15-turbo/model.safetensors"
    server.broken[file] = 1
    assert verify(hub.find("turbo")).is_turbo
    half = (bundle / file).stat().st_size // 2
    assert len(server.ranges) == 1
    assert half - 50_000 <= int(server.ranges[0].removeprefix(f"{file} from ")) <= half


def test_an_interrupted_download_keeps_complete_files(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    file = "acestep-v15-turbo/model.safetensors"
    server.broken[file] = 1000
    with pytest.raises(CheckpointError, match=r"the download broke off .* run again, what is here is kept"):
        hub.find("turbo")
    with raises(CheckpointError, "not_cached", remedy="fetch it with `python -m jobs.fetch model=turbo`"):
        hub.find("turbo", source="cache")
    server.broken.clear()
    server.asked.clear()
    assert verify(hub.find("turbo")).is_turbo
    assert [name for name in server.files_sent() if name.startswith("acestep")] == [file]


def test_a_damaged_file_is_fetched_again_once_deleted(server: Hub) -> None:
    folders = hub.find("turbo")
    blob = (folders.model / "model.safetensors").resolve()
    assert blob != folders.model / "model.safetensors"
    blob.write_bytes(blob.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=f"delete {blob} and fetch it again"):
        verify(folders)
    blob.unlink()
    assert verify(hub.find("turbo")).is_turbo


@pytest.mark.parametrize("status", [(401, "RepoNotFound"), (401, ""), (403, "")])
def test_private_repositories(server: Hub, status: tuple[int, str]) -> None:
    server.refused["ACE-Step/acestep-v15-sft"] = status
    message = (
        r"acestep-v15-sft: the hub has no such repository, or it is private; .* `hf auth login` or set HF_TOKEN"
    )
    with pytest.raises(CheckpointError, match=message):
        hub.find("sft")


@pytest.mark.parametrize("status", [401, 403])
def test_gated_repositories(server: Hub, status: int) -> None:
    server.refused["me/gated"] = (status, "GatedRepo")
    with pytest.raises(
        CheckpointError, match=f"me/gated: .* accept the terms at {server.endpoint}/me/gated and log in"
    ):
        hub.find("me/gated")


def test_repositories_that_cannot_be_had(server: Hub, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="me/nothing: the hub has no such repository; check the name"):
        hub.find("me/nothing")
    server.refused["me/down"] = (503, "")
    with pytest.raises(CheckpointError, match=r"me/down: the hub failed .*503.*; try later"):
        hub.find("me/down")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    server.repos["me/pickled"] = tmp_path / "pickled"
    with pytest.raises(CheckpointError, match=r"me/pickled: has none of config\.json.*; check the name"):
        hub.find("me/pickled")
    with pytest.raises(CheckpointError, match=r"ACE-Step/Ace-Step1\.5: has no variant 'xl'; it holds turbo"):
        hub.find(hub.BUNDLE, "xl")
    assert "me/pickled/pytorch_model.bin" not in str(server.asked)


def test_no_network(nobody: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        CheckpointError, match=r"sft: not completely cached, and http://127.0.0.1:9 cannot be reached"
    ):
        hub.find("sft")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        CheckpointError, match="not completely cached, and HF_HUB_OFFLINE forbids to fetch it; unset"
    ):
        hub.find("sft")


def test_a_pipeline_of_diffusers_brings_all_its_parts(server: Hub, tmp_path: Path) -> None:
    repo = hub.PUBLISHED["xl_turbo_diffusers"].repo
    assert repo == "ACE-Step/acestep-v15-xl-turbo-diffusers"
    folder = save_pipeline(tmp_path / "pipeline", make_parts())
    unsaid = json.loads((folder / "transformer" / "config.json").read_text()) | {"is_turbo": None}
    (folder / "transformer" / "config.json").write_text(json.dumps(unsaid))
    server.repos[repo] = server.repos["me/diffusers"] = folder
    named, by_id = hub.find("xl_turbo_diffusers"), hub.find("me/diffusers")
    assert not any(hub.BUNDLE in line for line in server.asked)
    assert fingerprint(by_id) == fingerprint(locate(tmp_path / "pipeline"))
    assert (named.name, by_id.name) == ("xl_turbo_diffusers", "me/diffusers")
    assert verify(named).is_turbo  # by its published name: the files of this test do not say so
    assert not verify(by_id).is_turbo
    with raises(CheckpointError, "unknown_model", remedy="leave out variant 'turbo'"):
        hub.find("me/diffusers", "turbo")


def test_a_bundle_of_the_hub_means_what_the_folder_means(server: Hub, bundle: Path) -> None:
    for variant in (None, "turbo", "acestep-v15-turbo"):
        assert verify(hub.find(hub.BUNDLE, variant)).is_turbo
    assert not [name for name in server.files_sent() if name.startswith("acestep-5Hz") and "config" not in name]

    shutil.copytree(bundle, bundle.parent / "own")
    shutil.copytree(bundle.parent / "base", bundle.parent / "own" / "acestep-v15-base")
    shutil.rmtree(bundle.parent / "own" / "Qwen3-Embedding-0.6B")
    server.repos["turbo-labs/models"] = bundle.parent / "own"
    with pytest.raises(CheckpointError, match=r"turbo-labs/models: holds several models .base, turbo.; name one"):
        hub.find("turbo-labs/models")
    server.asked.clear()
    found = hub.find("turbo-labs/models", "base")
    assert not verify(found).is_turbo
    assert found.name == "acestep-v15-base"
    assert {name.split("/")[0] for name in server.files_sent() if name.endswith("s")} == {
        "acestep-v15-base",
        "vae",
    }
    assert found.autoencoder == found.model.parent / "vae"
    assert found.text_encoder == hub.find("turbo").text_encoder
    server.asked.clear()
    assert hub.find("turbo-labs/models", "base") == hub.find("turbo-labs/models", "base", source="cache") == found
    assert not server.asked


def test_a_repository_of_one_model_has_one_variant(server: Hub, tmp_path: Path) -> None:
    server.repos["me/acestep-v15-base"] = tmp_path / "base"
    found = hub.find("me/acestep-v15-base")
    assert (found.name, found.autoencoder) == ("me/acestep-v15-base", hub.find("turbo").autoencoder)
    assert hub.find("me/acestep-v15-base", "base") == found
    with raises(CheckpointError, "unknown_model", remedy="leave out variant 'turbo'"):
        hub.find("me/acestep-v15-base", "turbo")


def test_a_downloader_that_raises_something_else(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the one for Xet repositories does."""

    def fail(*_: object, **options: object) -> str:
        if options["local_files_only"]:
            raise LocalEntryNotFoundError("not here")
        raise RuntimeError("Data processing error: CAS service error")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    message = r"turbo: the download broke off \(Data processing error: .*; run again, what is here is kept"
    with pytest.raises(CheckpointError, match=message):
        hub.find("turbo")


@pytest.mark.parametrize("gone", ["model.safetensors", "config.json"])
def test_a_cache_without_a_list_of_its_files(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """As older versions of the hub's library wrote it."""
    hub.find("turbo")
    ignored = shutil.ignore_patterns("trees")
    shutil.copytree(tmp_path / "cache", tmp_path / "older", symlinks=True, ignore=ignored)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "older"))
    server.asked.clear()
    folders = hub.find("turbo")
    assert not server.asked
    (folders.model / gone).unlink()
    with raises(CheckpointError, "not_cached"):
        hub.find("turbo", source="cache")
    assert verify(hub.find("turbo")).is_turbo


def test_damage_names_the_command_that_fetches(server: Hub, tmp_path: Path) -> None:
    folders = hub.find("turbo")
    (folders.text_encoder / "tokenizer.json").unlink()
    command = "fetch it again with `python -m jobs.fetch model=turbo`"
    with raises(CheckpointError, "missing_weights", remedy=command):
        verify(folders)
    with raises(CheckpointError, "missing_weights") as raised:
        verify(replace(folders, name="acestep-v15-turbo"))
    assert raised.value.remedy == "fetch it again"


def test_language_models(server: Hub, bundle: Path) -> None:
    folder = hub.find_language_model("lm_1.7b")
    assert folder.name == "acestep-5Hz-lm-1.7B"
    assert {name.split("/")[0] for name in server.files_sent()} == {folder.name}
    server.repos["ACE-Step/acestep-5Hz-lm-0.6B"] = server.repos["me/lm"] = bundle / folder.name
    for name in ("lm_0.6b", "me/lm"):
        found = hub.find_language_model(name)
        assert {p.name for p in found.iterdir()} >= {"config.json", "tokenizer.json", "model.safetensors"}
    assert hub.find_language_model(str(bundle / folder.name)) == bundle / folder.name
    with pytest.raises(CheckpointError, match="acestep-5Hz-lm-4B: the hub has no such repository"):
        hub.find_language_model("lm_4b")
    with raises(CheckpointError, "unknown_model", "language_model", "lm"):
        hub.find_language_model("lm")


def test_adapters_bring_their_two_files(server: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "optimizer.pt", "step_500.safetensors"):
        (folder / name).write_text("{}")
    server.repos["me/lora"] = folder
    found = hub.find_adapter("me/lora")
    assert {path.name for path in found.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert hub.find_adapter(str(folder)) == folder


def test_an_adapter_of_diffusers_is_one_file(server: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("pytorch_lora_weights.safetensors", "sample.mp3", "other.safetensors"):
        (folder / name).write_text("{}")
    server.repos["me/lora"] = folder
    found = hub.find_adapter("me/lora")
    assert [path.name for path in found.iterdir()] == ["pytorch_lora_weights.safetensors"]
    asked = len(server.asked)
    assert hub.find_adapter("me/lora") == found
    with pytest.raises(CheckpointError, match=r"adapter 'me/lora\.safetensors': no such file or folder"):
        hub.find_adapter("me/lora.safetensors")
    assert len(server.asked) == asked


def test_names_of_nothing(nobody: None) -> None:
    with raises(CheckpointError, "unknown_model", "model", "turbbo"):
        hub.find("turbbo")
    with pytest.raises(CheckpointError, match=r"a--b/c: not a hub id .*; give owner/name"):
        hub.find("a--b/c")
