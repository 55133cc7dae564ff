"""``python -m jobs.benchmark`` from its command line, at the smallest size, both sides real."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch._dynamo
from hydra.core.global_hydra import GlobalHydra
from torch._dynamo.utils import counters

from acestep.handler import AceStepHandler
from jobs import benchmark
from pipeline.benchmark import diffusers_tuned as tuned
from pipeline.benchmark import report as tables
from pipeline.benchmark import run as running
from pipeline.benchmark.cases import CoverCase, StepCase, make_cover_case
from pipeline.benchmark.config import parse_request
from pipeline.benchmark.diffusers_side import make_pipeline
from pipeline.benchmark.equality import EqualityCheck, agree, in_tiles, make_equality_check
from pipeline.benchmark.machine import Peaks
from pipeline.benchmark.model_sizes import SIZES
from pipeline.benchmark.output_diff import SLACK_DB, EqualityError, equal
from pipeline.benchmark.part_timing import PARTS, our_patches, peer_patches
from pipeline.benchmark.patching import results_of
from pipeline.benchmark.restyle_side import make_handler
from pipeline.benchmark.results import CaseResult, Report
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
    file = tmp_path / "reports" / "found.md"

    def run(*arguments: str, out: str | None = None) -> Done:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["benchmark", *arguments, f"out={out or file}"])
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
        by_work = part["needed_gflop"] * 1e9 / row["peaks"]["flops"]
        by_bytes = part["gigabytes"] * 1e9 / row["peaks"]["bytes"]
        assert part["roofline_s"] == pytest.approx(max(by_work, by_bytes))
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
    assert len(first.rows) == 1, "both cases are in one report"
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
    assert "Neither this case nor what comes after it was timed" in done.stderr


def break_guided_steps(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    real = StepCase.theirs

    def theirs(case: StepCase, pipeline: Any) -> Any:
        if case.guided:
            raise error
        return real(case, pipeline)

    monkeypatch.setattr(StepCase, "theirs", theirs)


def test_cases_before_one_that_fails_are_reported(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_guided_steps(monkeypatch, EqualityError("unequal_outputs", "they differ"))
    done = run("workload=step", "breakdown=false", *SHORT)
    assert done.status == 1
    assert "they differ" in done.stderr
    (row,) = done.rows
    assert [case["case"] for case in row["cases"]] == ["single step 5.2 s"]
    for text in (done.stdout, done.file.read_text()):
        assert "Unfinished: 1 of 2 cases." in text


def test_what_cannot_be_written_is_printed(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(report: Report, file: Path, before: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tables, "write", refuse)
    done = run("workload=step", "breakdown=false", *SHORT)
    assert done.status == 1
    assert "| single step 5.2 s | default | velocity |" in done.stdout
    assert "appended" not in done.stdout
    assert "No space left on device" in done.stderr


def measured_step(
    pipeline: Any, peer: str, check_equality: EqualityCheck | None, guided: bool = True
) -> CaseResult:
    """The step as a benchmark runs it against ``pipeline``; without ``check_equality`` by the one for less than
    fp32."""
    request = parse_request({"workload": "step", "duration_s": 5.2, "rounds": 1})
    case = list(running.make_cases(request, MINI, gpu=False))[guided]
    sides = running.Sides(make_handler(pipeline, MINI, torch.float32), {peer: pipeline})
    return running.run_case(
        case, check_equality or make_equality_check(case, pipeline), sides, request, Peaks(1e9, 1e9), print
    )


@pytest.mark.parametrize(
    ("check_equality", "reason"), [(agree, "out of memory"), (None, "out of memory in float32, so")]
)
def test_a_peer_without_memory_leaves_ours_alone(
    pipeline: Any, monkeypatch: pytest.MonkeyPatch, check_equality: EqualityCheck | None, reason: str
) -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**50)  # the error that torch has on a CPU
    break_guided_steps(monkeypatch, refused.value)
    found = measured_step(pipeline, "default", check_equality)
    assert found.peers[0].problem.startswith(reason)
    assert found.ours_s["cpu"] > 0
    assert [list(part.seconds) for part in found.parts] == [["ours"]] * 2
    assert measured_step(pipeline, "default", agree, guided=False).peers[0].ratios


def test_an_error_that_is_not_of_memory_is_none(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    break_guided_steps(monkeypatch, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        measured_step(pipeline, "default", agree)


def test_a_reference_in_tiles_is_the_whole(pipeline: Any) -> None:
    vae = pipeline.vae
    wave, latents = torch.randn(1, 2, 1920 * 60), torch.randn(1, 8, 60)
    sizes = ("tile_sample_min_length", "tile_sample_overlap", "tile_latent_min_length", "tile_latent_overlap")
    before = [getattr(vae, name) for name in sizes]
    with torch.no_grad():
        whole = vae.encode(wave).latent_dist.mean, vae.decode(latents).sample
        for name, value in zip(sizes, (1920 * 40, 1920 * 10, 40, 12), strict=True):
            setattr(vae, name, value)
        with (
            in_tiles(vae),
            results_of(vae.encoder, "forward") as encoded,
            results_of(vae.decoder, "forward") as decoded,
        ):
            tiled = vae.encode(wave).latent_dist.mean, vae.decode(latents).sample
    assert min(len(encoded), len(decoded)) > 1
    assert not vae.use_tiling
    for name, value in zip(sizes, before, strict=True):
        setattr(vae, name, value)
    for one, other in zip(whole, tiled, strict=True):
        assert (one - other).abs().max() < 1e-4 * one.abs().max()


def test_a_weight_before_the_codes_is_told_by_the_codes(pipeline: Any) -> None:
    handler = make_handler(pipeline, MINI, torch.float32)
    off_by_one_weight(handler, handler.model.tokenizer.audio_acoustic_proj, "bias")
    request = parse_request({"workload": "single_turbo", "duration_s": 5.2, "steps": 1})
    (work,) = cover_workloads(request, gpu=False)
    with pytest.raises(EqualityError, match=r"of 26 codes of ours and of the default peer differ"):
        agree(make_cover_case(work), "default", handler, pipeline)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["workload=singel_turbo"], "workload 'singel_turbo' is unknown; did you mean 'single_turbo'?"),
        (["workload=vae", "duration_s=1"], "duration_s 1 is out of range; allowed: 5.12..600"),
        (["workload=vae", "device=tpux"], "device 'tpux' is unknown"),
        (["workload=vae", "device=meta"], "device 'meta' cannot be timed here; use 'cpu', 'cuda'"),
        (["workload=vae", "device=cpu", "compiled=true"], "which torch.compile unrolls; leave it out"),
        ([], "workload not given; add workload=..."),
        (["workload=vae", "rounds=many"], "Value 'many' of type 'str' could not be converted to Integer"),
    ],
)
def test_wrong_values_end_with_a_message(run: Callable[..., Done], arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.status == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("old", [False, True])
def test_a_peer_that_is_not_there_is_told(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    # None is what Python has for a module that cannot be imported; an old version has no such pipeline.
    monkeypatch.setitem(sys.modules, "diffusers", ModuleType("diffusers") if old else None)
    for name in [name for name in sys.modules if name.startswith("pipeline.benchmark.")]:
        monkeypatch.delitem(sys.modules, name)
    done = run("workload=vae")
    assert done.status == 2
    assert f"measuring needs diffusers>=0.42.1,<0.43; found is {version('diffusers')} (" in done.stderr
    assert ("cannot import name" in done.stderr) == old
    assert 'python -m pip install -e ".[benchmark]"' in done.stderr


def test_the_peer_that_is_named_is_the_one_of_the_extra() -> None:
    assert f'benchmark = ["{benchmark.PEER}"]' in Path("pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("rows.jsonl", "is where the JSON lines go; name the Markdown file: out={}/rows.md"),
        ("folder", "is a folder; name a file: out={}/folder/vae-mini-cpu.md"),
        ("lines.md", "lines.jsonl' is a folder; name a file"),
        ("file/found.md", "file' is a file and no folder; name another place with out="),
    ],
)
def test_a_report_that_could_not_be_kept_is_refused_at_once(
    run: Callable[..., Done], tmp_path: Path, out: str, message: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "lines.jsonl").mkdir()
    (tmp_path / "file").touch()
    done = run("workload=vae", "device=cpu", out=str(tmp_path / out))
    assert done.status == 2
    assert message.format(tmp_path) in done.stderr
    assert "building" not in done.stderr


def cut(work: Workload, *strengths: float) -> CoverCase:
    """The sweep at one guidance and these strengths."""
    kept = [
        c for c in work.covers if c.setting.guidance_scale == 9 and c.setting.audio_cover_strength in strengths
    ]
    return make_cover_case(replace(work, covers=tuple(kept)))


def test_a_sweep_agrees_in_both_semantics_and_from_codes(pipeline: Any) -> None:
    handler = make_handler(pipeline, MINI, torch.float32)
    request = parse_request({"workload": "sweep", "duration_s": 5.2, "steps": 2})
    switch, blend = cover_workloads(request, gpu=False)
    made = []
    for case, count in ((cut(switch, 0.6, 1.0), 2), (cut(blend, 0.6), 1)):
        ours, theirs = case.ours_watched(handler), case.theirs_watched(pipeline)
        assert len(theirs.outputs["latents"]) == count
        equal(case.name, "default", ours.outputs, theirs.outputs)
        assert ours.codes[0].flatten().tolist() == theirs.codes[0].flatten().tolist()
        assert len(ours.codes[0].unique()) > 10
        assert (ours.latents[0] - theirs.latents[0]).abs().max() < 1e-5 < ours.latents[0].std()
        made.append(theirs.outputs["latents"][0])
    assert (made[0] - made[1]).abs().max() > 0.01, "below strength 1 the two semantics are two things"
    fixed = cut(blend, 0.6).few().from_codes(theirs.codes)
    equal("fixed", "default", {"latents": fixed.ours(handler)["latents"]}, {"latents": made[1:]})


def test_few_covers_are_one_of_each_strength_of_two_tracks() -> None:
    switch, _ = cover_workloads(parse_request({"workload": "sweep", "duration_s": 5.2}), gpu=False)
    few = make_cover_case(switch).few()
    assert [cover.setting.audio_cover_strength for cover in few.work.covers] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert {cover.setting.guidance_scale for cover in few.work.covers} == {3.0}
    (catalogue,) = cover_workloads(parse_request({"workload": "catalogue", "tracks": 3}), gpu=False)
    few = make_cover_case(catalogue).few()
    assert [cover.track for cover in few.work.covers] == [0, 1]
    assert len(few.sources) == len(few.work.tracks) == 2


def test_inputs_are_on_the_device_before_a_step_is_timed(pipeline: Any) -> None:
    request = parse_request({"workload": "step", "duration_s": 5.2})
    handler = make_handler(pipeline, MINI, torch.float32)
    for case in running.make_cases(request, MINI, gpu=False):
        case.theirs(pipeline)
        case.ours(handler)
        kept = dict(case.ready)
        assert len(kept) == 2
        case.theirs(pipeline)
        case.ours(handler)
        assert all(case.ready[key] is made for key, made in kept.items())


def test_a_peer_that_has_run_uncompiled_is_not_called_tuned(
    pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    square = torch.compile(lambda x, power: x**power, backend="eager", dynamic=False)
    with monkeypatch.context() as limited:
        limited.setattr(torch._dynamo.config, "recompile_limit", 1)
        before = tuned.limit_hits()
        square(torch.ones(2), 2)
        assert tuned.limit_hits() == before
        square(torch.ones(2), 3)
        assert tuned.limit_hits() == before + 1
    try:
        assert measured_step(pipeline, "tuned", agree).peers[0].peer == tuned.PARTLY_EAGER
    finally:
        counters.clear()
        torch._dynamo.reset()
    assert measured_step(pipeline, "tuned", agree).peers[0].peer == "tuned"


def test_weights_are_shared_and_seams_are_there(pipeline: Any) -> None:
    handler = make_handler(pipeline, MINI, torch.float32)
    theirs = {tensor.data_ptr() for name, part in pipeline.components.items() for tensor in _tensors(name, part)}
    own = {name for name, tensor in handler.model.named_parameters() if tensor.data_ptr() not in theirs}
    assert not own
    assert handler.text_encoder.model is pipeline.text_encoder
    for owner, method, _ in [*our_patches(handler), *peer_patches(pipeline)]:
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
    assert ("compile()" in done.stdout) == any("peer" in argument for argument in arguments)


@pytest.mark.slow
def test_a_catalogue(run: Callable[..., Done]) -> None:
    done = run("workload=catalogue", "tracks=3", "steps=2", "size=mini", "device=cpu", "rounds=1", "threads=1")
    assert done.status == 0, done.stderr
    (case,) = done.rows[0]["cases"]
    assert case["audio_s"] == pytest.approx(63.6)
