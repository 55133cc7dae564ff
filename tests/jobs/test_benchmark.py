"""``python -m jobs.benchmark`` from its command line, at the smallest size, both sides real."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from acestep.handler import AceStepHandler
from jobs import benchmark
from pipeline.benchmark import run as running
from pipeline.benchmark.cases import CoverCase
from pipeline.benchmark.ours import make_handler
from pipeline.benchmark.outputs import SLACK_DB, EqualityError, equal
from pipeline.benchmark.parts import PARTS, our_seams, peer_seams
from pipeline.benchmark.peer import make_pipeline
from pipeline.benchmark.request import parse_request
from pipeline.benchmark.run import agree
from pipeline.benchmark.sizes import SIZES
from pipeline.benchmark.workloads import Workload, cover_workloads

MINI, CPU = SIZES["mini"], torch.device("cpu")
SHORT = ("size=mini", "device=cpu", "duration_s=5.2", "rounds=1", "threads=1")


@dataclass(frozen=True)
class Done:
    """How a command ended, what it said, and what it wrote."""

    status: int
    stdout: str
    stderr: str
    file: Path

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.with_suffix(".jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return make_pipeline(MINI, 3, CPU)


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """The job in this process, which spares it the imports."""
    monkeypatch.setattr(benchmark, "_entered", [])
    file = tmp_path / "reports" / "found.md"

    def run(*arguments: str) -> Done:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["benchmark", *arguments, f"out={file}"])
        status, threads = 0, torch.get_num_threads()
        try:
            benchmark.main()
        except SystemExit as leaving:
            status = leaving.code
        finally:
            torch.set_num_threads(threads)
        said = capsys.readouterr()
        return Done(status, said.out, said.err, file)

    return run


def test_a_guided_cover_is_compared_timed_and_taken_apart(run: Callable[..., Done]) -> None:
    done = run("workload=single_base", "steps=2", *SHORT)
    assert done.status == 0, done.stderr
    (row,) = done.rows
    (case,) = row["cases"]
    (peer,) = case["peers"]
    assert [(one["output"], one["allowed"]) for one in peer["agreements"]] == [("latents", 1e-4), ("audio", 1e-3)]
    assert [ratio["clock"] for ratio in peer["ratios"]] == ["wall", "cpu"]
    assert all(0 < r["least"] <= r["median"] <= r["most"] for r in peer["ratios"])
    assert [part["part"] for part in case["parts"]] == list(PARTS)
    for part in case["parts"]:
        assert set(part["seconds"]) == {"ours", "default"}
        assert part["part"] == "rest" or min(part["seconds"].values()) > 0
        assert part["needed_gflop"] <= part["peer_gflop"]
    assert row["peaks"]["flops"] > 1e9
    assert row["machine"]["threads"] == 1
    text = done.file.read_text()
    assert text.strip() in done.stdout
    assert f"## single_base, mini, cpu, float32: {row['date']} UTC" in text
    assert "| base 5.2 s, 2 steps | default | latents |" in text
    assert "| VAE decode |" in text


def test_less_precision_is_compared_by_its_error(run: Callable[..., Done]) -> None:
    first = run("workload=step", "dtype=bfloat16", "breakdown=false", *SHORT)
    assert first.status == 0, first.stderr
    single, guided = first.rows[0]["cases"]
    for case in (single, guided):
        for one in case["peers"][0]["agreements"]:
            assert one["off"] is None
            assert 20 < one["peer_db"] - SLACK_DB <= one["ours_db"]
    assert not guided["parts"]
    assert run("workload=step", "breakdown=false", *SHORT).status == 0
    assert [row["dtype"] for row in first.rows] == ["bfloat16", "float32"], "reports are appended"


def off_by_one_weight(handler: AceStepHandler, module: Any, name: str) -> AceStepHandler:
    """The handler, with another first element in a tensor of its own."""
    weight = getattr(module, name)
    weight.data = weight.data.clone()  # the peer holds the same tensor
    weight.data[0] += 3.0
    return handler


def test_nothing_is_timed_where_one_weight_differs(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_other(*given: Any) -> AceStepHandler:
        handler = make_handler(*given)
        return off_by_one_weight(handler, handler.model.decoder.proj_out, "bias")

    monkeypatch.setattr(running, "make_handler", make_other)
    done = run("workload=single_turbo", "steps=1", *SHORT)
    assert done.status == 1
    assert not done.file.exists()
    assert "latents of ours and of the default peer differ by" in done.stderr
    assert "Nothing was timed" in done.stderr


def test_a_weight_before_the_codes_is_told_by_the_codes(pipeline: Any) -> None:
    handler = make_handler(pipeline, MINI, torch.float32)
    off_by_one_weight(handler, handler.model.tokenizer.audio_acoustic_proj, "bias")
    request = parse_request({"workload": "single_turbo", "duration_s": 5.2, "steps": 1})
    (work,) = cover_workloads(request, gpu=False)
    with pytest.raises(EqualityError, match=r"of 26 codes of ours and of the default peer differ"):
        agree(CoverCase(work), "default", handler, pipeline)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["workload=singel_turbo"], "workload 'singel_turbo' is unknown; did you mean 'single_turbo'?"),
        (["workload=vae", "duration_s=1"], "duration_s 1 is out of range; allowed: 5.12..600"),
        (["workload=vae", "device=tpux"], "device 'tpux' is unknown"),
        (["workload=vae", "device=cpu", "compiled=true"], "compiled=true is for GPUs"),
        ([], "workload not given; add workload=..."),
        (["workload=vae", "rounds=many"], "Value 'many' of type 'str' could not be converted to Integer"),
    ],
)
def test_wrong_values_end_with_a_message(run: Callable[..., Done], arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.status == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_peer_is_told(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)  # what Python has for a module that cannot be imported
    done = run("workload=vae")
    assert done.status == 2
    assert 'pip install "restyle[benchmark]"' in done.stderr


def cut(work: Workload, *strengths: float) -> CoverCase:
    """The sweep at one guidance and these strengths."""
    kept = [
        c for c in work.covers if c.setting.guidance_scale == 9 and c.setting.audio_cover_strength in strengths
    ]
    return CoverCase(replace(work, covers=tuple(kept)))


def test_a_sweep_agrees_in_both_semantics_and_from_codes(pipeline: Any) -> None:
    handler = make_handler(pipeline, MINI, torch.float32)
    request = parse_request({"workload": "sweep", "duration_s": 5.2, "steps": 2})
    switch, blend = cover_workloads(request, gpu=False)
    made = []
    for case, count in ((cut(switch, 0.6, 1.0), 2), (cut(blend, 0.6), 1)):
        ours, theirs = case.our_codes(handler), case.their_codes(pipeline)
        assert len(theirs.outputs["latents"]) == count
        equal(case.name, "default", ours.outputs, theirs.outputs)
        assert ours.codes[0].flatten().tolist() == theirs.codes[0].flatten().tolist()
        assert len(ours.codes[0].unique()) > 10
        made.append(theirs.outputs["latents"][0])
    assert (made[0] - made[1]).abs().max() > 0.01, "below strength 1 the two semantics are two things"
    fixed = cut(blend, 0.6).few().from_codes(theirs.codes)
    equal("fixed", "default", fixed.ours(handler), {"latents": made[1:]})


def test_weights_are_shared_and_seams_are_there(pipeline: Any) -> None:
    handler = make_handler(pipeline, MINI, torch.float32)
    theirs = {tensor.data_ptr() for name, part in pipeline.components.items() for tensor in _tensors(name, part)}
    own = {name for name, tensor in handler.model.named_parameters() if tensor.data_ptr() not in theirs}
    assert not own
    assert handler.text_encoder.model is pipeline.text_encoder
    for owner, method, _ in [*our_seams(handler), *peer_seams(pipeline)]:
        assert callable(getattr(owner, method))


def _tensors(name: str, part: Any) -> list[torch.Tensor]:
    return list(part.state_dict().values()) if isinstance(part, torch.nn.Module) and name != "vae" else []


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("workload=single_turbo", "peer=both"),
        ("workload=long",),
        ("workload=sweep", "steps=3"),
        ("workload=sweep", "steps=3", "variant=turbo"),
        ("workload=vae", "peer=tuned"),
        ("workload=single_base", "dtype=bfloat16"),
    ],
)
def test_every_workload(run: Callable[..., Done], arguments: tuple[str, ...]) -> None:
    done = run(*arguments, *SHORT)
    assert done.status == 0, done.stderr
    assert ("compile" in done.stdout) == any("peer" in argument for argument in arguments)


@pytest.mark.slow
def test_a_catalogue(run: Callable[..., Done]) -> None:
    done = run("workload=catalogue", "tracks=3", "steps=2", "size=mini", "device=cpu", "rounds=1", "threads=1")
    assert done.status == 0, done.stderr
    (case,) = done.rows[0]["cases"]
    assert case["audio_s"] == pytest.approx(63.6)
