"""``python -m jobs.fetch`` as a user meets it, against a local stand-in for the hub."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from acestep.checkpoints import hub
from acestep.checkpoints.checkpoint import fingerprint
from acestep.checkpoints.folders import locate
from jobs import fetch
from tests import miniature
from tests.acestep.checkpoints.test_hub import point_to
from tests.acestep.language import miniature_lm
from tests.hub_server import Hub, serve
from tests.job_command import Done, run_job

ROOT = Path(__file__).parents[2]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    bundle = tmp_path_factory.mktemp("bundle")
    miniature.write(bundle)
    miniature_lm.write(bundle / "acestep-5Hz-lm-1.7B")
    with serve(Hub({hub.BUNDLE: bundle})) as running:
        yield running


@pytest.fixture
def run(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """The job with an empty cache of its own."""
    point_to(monkeypatch, server.endpoint, tmp_path / "hub")
    server.asked.clear()
    return partial(run_job, "fetch")


def in_a_process(server: Hub, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "jobs.fetch", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_fetch_verify_and_list(server: Hub, tmp_path: Path, run: Callable[..., Done]) -> None:
    absent = run("model=turbo", "verify_only=true")
    assert absent.returncode == 2
    place = "ACE-Step/Ace-Step1.5/acestep-v15-turbo"
    assert f"error: {place}: not completely cached; fetch it with " in absent.stderr
    assert not server.asked

    done = in_a_process(server, tmp_path, "model=turbo", "language_model=lm_1.7b")
    assert done.returncode == 0, done.stderr
    assert "turbo: complete, every tensor fits" in done.stdout
    assert "lm_1.7b: complete, every tensor fits" in done.stdout
    assert f"fingerprint    {fingerprint(locate(miniature.FOLDER, 'turbo'))}" in done.stdout
    assert "acestep-v15-turbo\n" in done.stdout
    assert "\r" not in done.stdout
    server.asked.clear()

    again = run("model=turbo", "verify_only=true")
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout.split("lm_1.7b")[0]
    shown = rows(run("list=true"))
    assert shown.keys() >= {"demo", *hub.PUBLISHED, *hub.LANGUAGE_MODELS}
    assert shown["turbo"] == ["ACE-Step/Ace-Step1.5/acestep-v15-turbo", "cached", "1.9", "MB"]
    assert shown["lm_1.7b"][1] == "cached"
    assert shown["base"] == ["ACE-Step/acestep-v15-base", "no"]
    assert not server.asked

    next(tmp_path.rglob("acestep-v15-turbo/model.safetensors")).resolve().unlink()
    assert rows(run("list=true"))["turbo"][1] == "partly"
    assert run("model=turbo", "verify_only=true").returncode == 2
    assert run("model=turbo").returncode == 0
    assert rows(run("list=true"))["turbo"][1] == "cached"


def test_a_damaged_tokenizer_is_found(server: Hub, tmp_path: Path, run: Callable[..., Done]) -> None:
    assert run("model=turbo").returncode == 0
    file = next((tmp_path / "hub").rglob("Qwen3-Embedding-0.6B/tokenizer.json"))
    file.resolve().write_text("{}")
    damaged = run("model=turbo")
    assert damaged.returncode == 2
    assert "tokenizer.json: not readable as a tokenizer" in damaged.stderr
    assert f"delete {file.resolve()} and fetch it again with `python -m jobs.fetch model=turbo`" in damaged.stderr
    file.resolve().unlink()
    assert run("model=turbo").returncode == 0


def rows(shown: Done) -> dict[str, list[str]]:
    assert shown.returncode == 0, shown.stderr
    return {line.split()[0]: line.split()[1:] for line in shown.stdout.splitlines()}


def test_an_adapter_must_fit_the_model_it_is_fetched_with(
    server: Hub, tmp_path: Path, run: Callable[..., Done]
) -> None:
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    key = "base_model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    save_file({key.format("A"): torch.zeros(2, 48), key.format("B"): torch.zeros(64, 2)}, folder / WEIGHTS)
    server.repos["me/lora"] = folder
    assert "me/lora: complete, every tensor fits" in run("adapter=me/lora").stdout
    both = run("adapter=me/lora", f"model={miniature.BASE}")
    assert both.returncode == 2
    assert "does not fit the model; 1 of another shape" in both.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: nothing to fetch; add model=..., language_model=..., adapter=... or list=true"),
        (["model=sft"], "error: ACE-Step/acestep-v15-sft: the hub has no such repository; check the name"),
        (["model=turbo", "adapter="], "error: adapter is empty"),
        (["modle=turbo"], "did you mean model?"),
        (
            ["adapter=nowhere"],
            "adapter 'nowhere': no such file or folder; give a LoRA file or folder, or a hub id owner/name",
        ),
    ],
)
def test_what_cannot_be_fetched_says_why(run: Callable[..., Done], arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_log_gets_plain_lines_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(fetch.time, "monotonic", lambda: clock[0])
    bar = fetch.LogLines(total=4_000_000, unit="B", desc="Downloading bytes")
    for _ in range(4):
        clock[0] += 6
        bar.update(1_000_000)
        bar.refresh()
    bar.close()
    assert capsys.readouterr().out == "2.0 MB of 4.0 MB\n4.0 MB of 4.0 MB\n"
