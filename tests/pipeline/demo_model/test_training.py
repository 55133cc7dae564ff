"""Training from songs to covers, at the smallest size; it goes on from any checkpoint to the same state."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from acestep.errors import RequestError
from acestep.handler import AceStepHandler
from jobs.train_demo import plan_of
from pipeline.demo_model import autoencoding, flow, network, text
from pipeline.demo_model.evaluation import Scope, evaluate_training, read_songs
from pipeline.demo_model.flow import onset_level
from pipeline.demo_model.plan import PLANS
from pipeline.demo_model.stages import STAGES, write_checkpoints
from pipeline.demo_model.training import Draws, Schedule, State, fit, log_losses
from pipeline.demo_model.training_folder import Training
from tests.pipeline.demo_model.test_songs import playable

MAX_BYTES = 16_000_000


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Training:
    """A training of a few steps of every stage."""
    if not playable():
        pytest.skip("needs fluidsynth and FluidR3")
    root = tmp_path_factory.mktemp("training")
    training = Training(root, PLANS["small"], 0, torch.device("cpu"), [log_losses(root)])
    for stage in STAGES.values():
        stage(training)
    return training


def test_what_is_exported_loads_and_makes_covers(trained: Training) -> None:
    assert sum(file.stat().st_size for file in trained.checkpoints.rglob("*") if file.is_file()) <= MAX_BYTES
    scope = Scope(seeds=[1], strengths=[0.0, 1.0], guidances=[1.0], genres=[0])
    tables = evaluate_training(trained, scope, lambda text: None)
    assert "autoencoder by genre" in tables
    report = json.loads((trained.root / "evaluation.json").read_text())
    assert [(row["strength"], row["guidance"]) for row in report["base"]] == [(0, 4), (1, 4), (1, 1)]
    assert [(row["strength"], row["guidance"]) for row in report["turbo"]] == [(0, 1), (1, 1)]
    assert AceStepHandler.from_checkpoint(trained.checkpoints, "turbo").is_turbo
    for picture in ("spectrograms.png", "losses.png"):
        assert (trained.root / picture).read_bytes().startswith(b"\x89PNG")
    stages = {json.loads(line)["stage"] for line in (trained.root / "losses.jsonl").read_text().splitlines()}
    assert stages >= {"encoder", "decoder", "refined_decoder", "base", "turbo"}


def test_the_exported_autoencoder_is_the_trained_one(trained: Training) -> None:
    exported = AceStepHandler.from_checkpoint(trained.checkpoints, "base").autoencoder
    ours = autoencoding.build(0)
    ours.encoder.load_state_dict(trained.trained("encoder"))
    ours.decoder.load_state_dict(trained.trained("refined_decoder"))
    gain = 10 ** (autoencoding.match_level(ours, read_songs(trained.songs("train"), [0])[0]) / 20)
    assert 0.7 < gain < 1.42
    audio = torch.randn(1, 2, 40 * 1920) * 0.1
    with torch.no_grad():
        latents, found = autoencoding.encode(ours.encoder, audio), exported.encode(audio)
        torch.testing.assert_close(found, latents, rtol=0.05, atol=0.02)  # bf16 weights
        torch.testing.assert_close(
            exported.decode(latents), autoencoding.decode(ours.decoder, latents), rtol=0.05, atol=0.02
        )


@pytest.mark.parametrize("stage", ["encoder", "base", "turbo"])
def test_a_training_that_was_stopped_comes_to_the_same_state(
    trained: Training, stage: str, tmp_path, monkeypatch
) -> None:
    """Stopped after a step; a new start goes on from its checkpoint."""
    for file in trained.root.iterdir():
        if file.stem != stage:
            (tmp_path / file.name).symlink_to(file)
    again = dataclasses.replace(trained, root=tmp_path, reporters=[])
    monkeypatch.setattr(State, "save", _save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        STAGES[stage](again)
    monkeypatch.undo()
    assert _step_of(again.state(stage)) == 1
    STAGES[stage](again)
    expected, found = load_file(trained.state(stage)), load_file(again.state(stage))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


_save = State.save


def _save_and_stop(state: State, file: Path) -> None:
    _save(state, file)
    raise KeyboardInterrupt


def _step_of(file: Path) -> int:
    with safe_open(file, "pt") as opened:
        return int(opened.metadata()["step"])


def test_a_stage_says_what_it_lacks(tmp_path) -> None:
    training = Training(tmp_path, PLANS["small"], 0, torch.device("cpu"), [])
    for stage, lacks in (("teacher", "stage=songs"), ("latents", "stage="), ("base", "stage=latents")):
        with pytest.raises(RequestError, match=lacks):
            STAGES[stage](training)
    with pytest.raises(RequestError, match="stage="):
        write_checkpoints(training)


def test_plans_take_changes_and_refuse_nonsense() -> None:
    assert plan_of("small", {"songs": 7, "batch": None}) == dataclasses.replace(PLANS["small"], songs=7)
    with pytest.raises(RequestError, match=r"plan\.songs 0"):
        plan_of("full", {"songs": 0})
    with pytest.raises(RequestError, match="smal"):
        plan_of("smal", {})


def test_the_rate_rises_holds_and_falls() -> None:
    schedule = Schedule(100, warmup=10, decay=0.5)
    assert schedule.scale(0) == pytest.approx(0.1)
    assert schedule.scale(30) == 1
    assert schedule.scale(75) == pytest.approx(0.5)
    assert schedule.scale(99) == pytest.approx(0.02)


def test_fitting_lowers_the_loss(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 1)
    wanted = torch.tensor([[1.0, -2.0, 3.0, 0.5]])
    state = State.fresh(module, [torch.optim.AdamW(module.parameters(), 0.05)])
    told: list[float] = []

    def losses(draws: Draws):
        x = torch.randn(32, 4)
        loss = (module(x) - x @ wanted.T).square().mean()
        return loss, {"loss": loss}

    fit(state, tmp_path / "a.safetensors", Schedule(300), 0, losses, [lambda s, k, v: told.append(v["loss"])])
    assert told[-1] < 0.02 < told[0]


def test_the_network_in_training_is_the_one_that_is_exported() -> None:
    module = network.Network(300, 0).eval()
    ids = torch.randint(0, 300, (2, 20))
    lyrics, silence = torch.arange(5), torch.randn(100, network.CHANNELS)
    x, context = torch.randn(2, 160, network.CHANNELS), torch.randn(2, 160, network.CHANNELS)
    t = torch.tensor([0.3, 0.8])
    with torch.no_grad():
        conditions, real = module.conditions(ids, torch.tensor([20, 11]), lyrics, silence)
        found, _ = module.velocity(x, context, t, conditions, real)
        encoder, decoder = module.model.encoder, module.model.decoder
        packed = torch.cat(
            (
                encoder.lyrics(module.text.embed_tokens(lyrics)[None]),
                encoder.timbre(silence[None]),
                encoder.text_projector(module.text(ids[1:, :11])),
            ),
            dim=1,
        )
        wanted = decoder(
            x[1:],
            torch.cat((context[1:], torch.ones(1, 160, network.CHANNELS)), -1),
            decoder.modulation(t[1:]),
            decoder.cross_attention(packed),
        )
        torch.testing.assert_close(found[1:], wanted, rtol=1e-4, atol=1e-5)
        tokenizer = module.model.tokenizer
        torch.testing.assert_close(
            module.quantised(x)[0], tokenizer.quantizer.vectors(tokenizer(x)), rtol=1e-4, atol=1e-5
        )


def test_the_text_encoder_is_qwen3() -> None:
    from transformers import Qwen3Config, Qwen3Model

    ours = network.Network(300, 0).text
    theirs = Qwen3Model(Qwen3Config.from_dict(network.text_config(300))).eval()
    theirs.load_state_dict(ours.state_dict())
    ids = torch.randint(0, 300, (2, 30))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(input_ids=ids).last_hidden_state, rtol=1e-4, atol=1e-5)


def test_words_that_were_never_seen_have_tokens() -> None:
    tokenizer = text.learn()
    assert tokenizer.get_vocab_size() == text.VOCABULARY
    assert tokenizer.decode(tokenizer.encode("Zydeco, Größe, 喜").ids) == "Zydeco, Größe, 喜"


def test_flow_times_cover_the_interval() -> None:
    torch.manual_seed(0)
    t = flow.flow_times(4000, torch.device("cpu"))
    assert t.min() > 0
    assert t.max() < 1
    assert 0.5 < t.mean() < 0.7


def test_the_first_onset_of_a_window_is_a_level_of_its_code() -> None:
    starts = torch.tensor([[[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]])
    levels = (onset_level(starts) + 1) / 2 * 7
    assert levels.round().tolist() == [[0, 2, 4, 6]]
