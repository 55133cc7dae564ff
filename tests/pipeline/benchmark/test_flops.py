"""Closed forms against what torch counts on the peer's own modules, and against figures of the published size."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from acestep.handler import AceStepHandler
from acestep.model.config import BlockConfig, parse_autoencoder_config
from pipeline.benchmark import flops as cost
from pipeline.benchmark.breakdown import roofline_s
from pipeline.benchmark.case_flops import text_block, work_of
from pipeline.benchmark.cases import make_cover_case
from pipeline.benchmark.config import parse_request
from pipeline.benchmark.diffusers_side import make_pipeline
from pipeline.benchmark.flops import Cost
from pipeline.benchmark.machine import Peaks
from pipeline.benchmark.model_sizes import SIZES
from pipeline.benchmark.patching import results_of
from pipeline.benchmark.restyle_side import make_handler
from pipeline.benchmark.run import make_cases
from pipeline.benchmark.workloads import cover_workloads

MINI, FULL = SIZES["mini"], SIZES["full"]
FRAMES, TOKENS = 395, 37  # longer than a window of 128 tokens


@pytest.fixture(scope="module")
def peer() -> Any:
    return make_pipeline(MINI, 0, torch.device("cpu"))


def counted(call: Callable[[], object]) -> int:
    # Fused attention on a CPU is not known to torch's counter; its products one by one are.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("batch", [1, 2])
def test_transformer(peer: Any, batch: int) -> None:
    x = torch.zeros(batch, FRAMES, 8)
    given = (x, torch.ones(batch), torch.ones(batch), torch.zeros(batch, TOKENS, 64), torch.cat((x, x), dim=-1))
    expected = cost.step_of_peer(MINI.model_config, FRAMES, TOKENS, batch)
    assert counted(lambda: peer.transformer(*given)) == expected.flops


@pytest.fixture(scope="module")
def ours(peer: Any) -> AceStepHandler:
    return make_handler(peer, MINI, torch.float32)


def test_what_the_peer_runs_in_a_step_is_what_it_is_said_to(peer: Any, ours: AceStepHandler) -> None:
    request = parse_request({"workload": "step", "duration_s": 5.2})
    for case in make_cases(request, MINI, False):
        (part,) = work_of(case, ours).values()
        assert counted(lambda case=case: case.theirs(peer)) == part.peer.flops


@pytest.mark.parametrize(("index", "strengths"), [(0, (0.2, 0.6)), (1, (0.6,))], ids=["switch", "velocity blend"])
def test_what_the_peer_runs_in_covers_is_what_it_is_said_to(
    peer: Any, ours: AceStepHandler, index: int, strengths: tuple[float, ...]
) -> None:
    # Of two steps a strength of 0.2 leaves the switch none on the source, 0.6 one.
    request = parse_request({"workload": "sweep", "duration_s": 5.2, "steps": 2})
    work = cover_workloads(request, gpu=False)[index]
    covers = tuple(c for c in work.covers if c.setting.audio_cover_strength in strengths)[::4]
    case = make_cover_case(replace(work, covers=covers))
    with results_of(peer.condition_encoder, "forward") as conditions:
        found = counted(lambda: case.theirs(peer))
    scattered = len(conditions) * 2 * 64  # the peer copies its one timbre token by a product
    assert found == sum(part.peer.flops for part in work_of(case, ours).values()) + scattered


def test_the_longer_of_operations_and_bytes_is_the_roofline() -> None:
    peaks = Peaks(flops=100.0, bytes=10.0)
    assert roofline_s(Cost(flops=300.0, elements=2.0), peaks, 4) == 3.0
    assert roofline_s(Cost(flops=300.0, elements=20.0), peaks, 2) == 4.0


def test_a_guided_step_reads_the_weights_once() -> None:
    model = FULL.model_config
    single, pair = (cost.step_needed(model, 4, 3, guided) for guided in (False, True))
    block = model.decoder
    weights = block.hidden_size * (
        model.in_channels * model.patch_size + model.latent_channels * model.patch_size
    ) + len(block.windows) * block.hidden_size * (
        (2 * block.heads + 2 * block.kv_heads) * block.head_dim
        + 2 * block.heads * block.head_dim
        + 3 * block.intermediate_size
    )
    # At two tokens what lies between is little beside 1.5 G weights.
    assert weights < single.elements < pair.elements < 1.01 * weights


def test_autoencoder(peer: Any) -> None:
    config = parse_autoencoder_config(MINI.autoencoder, MINI.name)
    encode = cost.autoencoder_encode(config, 10)
    assert counted(lambda: peer.vae.encode(torch.zeros(1, 2, 19_200))) == encode.flops
    decode = cost.autoencoder_decode(config, 10)
    assert counted(lambda: peer.vae.decode(torch.zeros(1, 8, 10))) == decode.flops


def test_codes_and_hints(peer: Any) -> None:
    latents = torch.zeros(1, 50, 8)

    def both() -> None:
        peer.audio_token_detokenizer(peer.audio_tokenizer.tokenize(latents)[0])

    assert counted(both) == cost.codes_and_hints(MINI.model_config, 50).flops


def test_encoders(peer: Any) -> None:
    text, lyrics, clip = torch.zeros(1, 9, 64), torch.zeros(1, 21, 64), torch.zeros(1, 750, 8)
    masks = (torch.ones(1, n, dtype=torch.long) for n in (9, 21))
    text_mask, lyric_mask = masks
    given = (text, text_mask, lyrics, lyric_mask, clip, torch.tensor([0]))
    expected = (cost.words(MINI.model_config, 21, 9) + cost.timbre(MINI.model_config)).flops
    scattered = 2 * 64  # the peer copies its one timbre token by a product
    assert counted(lambda: peer.condition_encoder(*given)) == expected + scattered


def test_text_encoder(peer: Any) -> None:
    class Holder:
        text_encoder = type("Text", (), {"model": peer.text_encoder})

    block = text_block(Holder)
    ids = torch.zeros(1, 40, dtype=torch.long)
    assert counted(lambda: peer.text_encoder(input_ids=ids)) == cost.text_model(block, 40).flops


@pytest.mark.parametrize(("length", "window"), [(5, 0), (5, 2), (5, 4), (5, 9), (300, 128)])
def test_visible_pairs(length: int, window: int) -> None:
    index = torch.arange(length)
    pairs = ((index[:, None] - index).abs() <= window).sum().item()
    assert cost.visible_pairs(length, window) == pairs
    assert cost.visible_pairs(length, None) == length**2


@pytest.mark.parametrize(
    ("seconds", "tokens", "single", "pair"),
    [(30, 221, 1.144, 2.29), (240, 721, 10.8, 21.6), (600, 1321, 34.4, 68.9)],
)
def test_the_peers_step_at_the_published_size(seconds: int, tokens: int, single: float, pair: float) -> None:
    # Tera-operations, counted independently on the meta device.
    for batch, expected in ((1, single), (2, pair)):
        found = cost.step_of_peer(FULL.model_config, 25 * seconds, tokens, batch).flops / 1e12
        assert found == pytest.approx(expected, rel=0.01)


def test_other_parts_at_the_published_size() -> None:
    vae, model = parse_autoencoder_config(FULL.autoencoder, FULL.name), FULL.model_config
    text = BlockConfig(1024, 3072, 16, 8, 128, 1e-6, 1e6, (None,) * 28)
    for found, expected in (
        (cost.autoencoder_encode(vae, 750), 3.66),
        (cost.autoencoder_decode(vae, 6000), 29.2),
        (cost.codes_and_hints(model, 750), 0.34),
        (cost.text_model(text, 120), 0.11),
    ):
        assert found.flops / 1e12 == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize(("seconds", "tokens", "saving"), [(30, 221, 1.13), (240, 721, 1.20), (600, 1321, 1.31)])
def test_what_is_needed_of_a_guided_step(seconds: int, tokens: int, saving: float) -> None:
    peer = cost.step_of_peer(FULL.model_config, 25 * seconds, tokens, 2)
    needed = cost.step_needed(FULL.model_config, 25 * seconds, tokens, guided=True)
    assert peer.flops / needed.flops == pytest.approx(saving, rel=0.05)
