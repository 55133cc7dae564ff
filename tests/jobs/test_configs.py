"""Every file of ``conf`` is composed and validated, and a mistyped key names the nearest valid one."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from acestep.errors import RequestError, RestyleError
from acestep.sampling.setting import parse_setting
from jobs.config_keys import complete, hint
from jobs.presets import read_preset, read_presets
from jobs.restyle import job_of
from jobs.schema import JOBS as SCHEMAS
from jobs.schema import register
from jobs.tune import spec_of
from pipeline.catalogue.grid import make_settings

CONF = Path(__file__).parents[2] / "conf"
JOBS = sorted(file.stem for file in CONF.glob("*.yaml"))
CLUSTERS = ("auto", "existing", "local")
METRICS = ("all", "default", "off")
PRESETS = sorted(file.stem for file in (CONF / "preset").glob("*.yaml"))
REQUIRED_ALL = {
    job: ["manifest=m.csv", "model=demo"] if job in ("restyle", "validate", "tune") else ["model=demo"]
    for job in ("restyle", "validate", "tune", "serve")
} | {"benchmark": ["workload=vae"], "select": ["export=x"]}
REQUIRED = {"restyle": ["manifest=m.csv", "output=out", "model=demo"]}


@pytest.fixture(autouse=True)
def hydra() -> None:
    GlobalHydra.instance().clear()
    register()


def composed(job: str, *overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(job, overrides=[*REQUIRED.get(job, []), *overrides])


def test_nothing_in_conf_is_overlooked() -> None:
    found = {str(file.relative_to(CONF)) for file in CONF.rglob("*.yaml")}
    groups = {f"preset/{name}.yaml" for name in PRESETS} | {f"cluster/{name}.yaml" for name in CLUSTERS}
    groups |= {f"metrics/{name}.yaml" for name in METRICS}
    assert found == {f"{job}.yaml" for job in JOBS} | groups
    assert set(JOBS) == {
        "restyle",
        "fetch",
        "validate",
        "measure",
        "compare",
        "tune",
        "select",
        "benchmark",
        "serve",
        "train_demo",
    }
    for job in JOBS:
        assert composed(job)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_a_job(name: str) -> None:
    job = job_of(composed("restyle", f"preset={name}"))
    (setting,) = make_settings(job.cover, job.grid)
    preset = read_preset(CONF / "preset" / f"{name}.yaml")
    assert preset.name == name
    assert job.caption == preset.caption
    assert {key: getattr(setting.cover, key) for key in preset.cover} == dict(preset.cover)
    assert name == "none" or preset.caption


def test_the_six_genre_pairs_are_there_with_their_ranges() -> None:
    presets = {(p.source_genre, p.target_genre): p for p in read_presets([CONF])}
    assert set(presets) == {
        ("country", "heavy metal"),
        ("pop", "jazz"),
        ("rock", "electronic"),
        ("classical", "hip-hop"),
        ("folk", "R&B"),
        ("acoustic", "orchestral"),
    }
    for preset in presets.values():
        assert set(preset.ranges) == {"audio_cover_strength", "guidance_scale", "inference_steps"}
        assert preset.cover["inference_steps"] == 28
        assert preset.cover["cfg_interval_end"] == 0.95
        parse_setting(preset.cover)


def test_the_command_line_goes_over_a_preset() -> None:
    job = job_of(composed("restyle", "preset=pop_to_jazz", "cover.guidance_scale=10", "preset.caption=bebop"))
    assert (job.cover["guidance_scale"], job.cover["audio_cover_strength"], job.caption) == (10, 0.6, "bebop")


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("cover.guidence_scale=3", "did you mean cover.guidance_scale?"),
        ("cover.audio_cover_strenght=1", "did you mean cover.audio_cover_strength?"),
        ("grid.shfit=[1,2]", "did you mean grid.shift?"),
        ("cover.strength=0.3", "did you mean cover.audio_cover_strength or cover.cover_noise_strength?"),
        ("cover.steps=8", "did you mean cover.inference_steps?"),
        ("cluster.worker=2", "did you mean cluster.workers?"),
        ("manifst=x", "did you mean manifest?"),
        ("guidance_scale=9", "did you mean cover.guidance_scale?"),
        ("preset.captoin=x", "did you mean preset.caption?"),
        ("zzzz=1", "known keys: manifest, output"),
        ("preset=null", "no preset is preset=none"),
        ("cover.shift=abc", ""),
    ],
)
def test_a_mistyped_key_names_the_nearest(override: str, nearest: str) -> None:
    said = hint("restyle", [override])
    assert said.startswith(nearest) if nearest else said == ""


@pytest.mark.parametrize("job", JOBS)
def test_a_user_sees_the_nearest_key(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, right = (
        ("outptu", "output") if job in ("measure", "compare", "select", "train_demo") else ("modle", "model")
    )
    wrong, right = {"benchmark": ("wrokload", "workload")}.get(job, (wrong, right))
    monkeypatch.setattr(sys, "argv", [f"jobs.{job}", f"{wrong}=x"])
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"jobs.{job}").main()
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert f"Key '{wrong}' not in" in said
    assert said.rstrip().endswith(f"did you mean {right}?")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preset: {captoin: x}", "Key 'captoin' not in 'PresetConfig'; did you mean caption?"),
        ("cover: {shfit: 2}", "Key 'shfit' not in 'CoverConfig'; did you mean shift?"),
        ("covers: {shift: 2}", "key 'covers' is not one of preset, cover"),
        ("cover: 5", "cover is 5; expected a mapping"),
        ("preset: hi", "preset is 'hi'; expected a mapping"),
        (
            "preset: {source_genre: a, target_genre: b, caption: x, ranges: {shift: 3}}",
            "the range of shift is 3; write [lowest, highest]",
        ),
        ("preset: [", "while parsing"),
        (
            "preset: {source_genre: a, target_genre: b, caption: x}\ncover: {shift: -1}",
            "shift -1 is out of range",
        ),
        ("preset: {source_genre: a, target_genre: b}", "has no caption"),
        (
            "preset: {source_genre: a, target_genre: b, caption: x, ranges: {shift: [1.0, 2.0]}}\n"
            "cover: {shift: 3}",
            "shift 3 is outside its own range 1..2",
        ),
    ],
)
def test_a_preset_of_a_user_is_checked(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "preset").mkdir()
    (tmp_path / "preset" / "mine.yaml").write_text(text)
    with pytest.raises(RequestError) as caught:
        read_presets([tmp_path])
    assert message in str(caught.value)
    assert "mine" in str(caught.value)


def test_every_metrics_group_makes_a_job() -> None:
    found = {name: job_of(composed("restyle", f"metrics={name}")).metrics for name in METRICS}
    assert [found[name].enabled for name in METRICS] == [True, True, False]
    assert found["all"].melody
    assert found["all"].style == "laion/larger_clap_music_and_speech"


def test_an_objective_is_checked() -> None:
    with pytest.raises(RequestError, match=r"objective\.kept 'harmony/chroma_exces' is unknown; did you mean"):
        job_of(composed("restyle", "objective.kept=[harmony/chroma_exces]"))


def test_tuning_makes_its_own_grid() -> None:
    for swept in ("grid.shift=[1,2]", "stages=[{caption: rock}]"):
        config = composed("tune", swept, "manifest=m.csv", "output=out", "model=demo")
        with pytest.raises(RequestError, match=r"(grid\.shift|stages): tuning makes its own grid"):
            spec_of(config, job_of(config))


def test_missing_values_are_named() -> None:
    with (
        initialize_config_dir(str(CONF), version_base="1.3"),
        pytest.raises(RestyleError, match=r"manifest=\.\.\."),
    ):
        job_of(compose("restyle"))


def texts(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys that hold text, with their defaults."""
    for field in fields(kind):
        inner = get_type_hints(kind)[field.name]
        if is_dataclass(inner):
            yield from texts(inner, f"{prefix}{field.name}.")
        elif inner in (str, str | None):
            yield f"{prefix}{field.name}", field.default


@pytest.mark.parametrize("job", JOBS)
def test_an_empty_text_is_refused_unless_its_default_is_empty(job: str) -> None:
    found = dict(texts(SCHEMAS[job]))
    filled = composed(job, *(f"{key}=x" for key, default in found.items() if default == "???"))
    for key, default in found.items():
        for empty in ("", "  "):
            config = filled.copy()
            OmegaConf.update(config, key, empty)
            if default == "":
                assert complete(config)
            else:
                with pytest.raises(RestyleError, match=rf"^{key} is empty"):
                    complete(config)


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("value", ["${HOME}/out", "${oc.env:NO_SUCH_VARIABLE}", "${nosuch:x}", "${output}"])
def test_an_interpolation_that_leads_nowhere_cannot_start(
    job: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = {"fetch": "model", "benchmark": "out"}.get(job, "output")
    value = value.replace("output", key)
    monkeypatch.setattr(sys, "argv", [f"jobs.{job}", f"{key}={value}", *REQUIRED_ALL.get(job, [])])
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"jobs.{job}").main()
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert said.startswith(f"error: {key}: ")
    assert "${oc.env:NAME}" in said
    assert "Traceback" not in said


def test_a_configuration_of_the_users_own_makes_no_folder_and_no_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "my_compare.yaml").write_text(
        "defaults: [compare_schema, _self_]\noutput: nowhere\n"
        "hydra: {mode: MULTIRUN, output_subdir: .hydra, job: {chdir: true}}"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["jobs.compare", "--config-dir", "mine", "--config-name", "my_compare"])
    with pytest.raises(SystemExit) as left:
        importlib.import_module("jobs.compare").main()
    assert left.value.code == 2
    assert "output 'nowhere'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [mine]


@pytest.mark.parametrize("job", ["restyle", "validate", "tune", "serve"])
def test_a_model_has_to_be_named(
    job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = [] if job == "serve" else ["manifest=m.csv"]
    monkeypatch.setattr(sys, "argv", [f"jobs.{job}", *manifest, f"output={tmp_path}/out"])
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"jobs.{job}").main()
    assert left.value.code == 2
    assert "model not given; add model=..." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
