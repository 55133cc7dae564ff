"""What tuning leaves behind is what its covers were made with, and the next command takes it."""

import shlex
from dataclasses import asdict
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from acestep.errors import RequestError
from acestep.sampling.setting import CoverSetting
from jobs.presets import read_preset
from jobs.restyle import job_of
from jobs.schema import register
from jobs.tune import following
from pipeline.evaluation.tuning import TuningResult
from pipeline.workflows.specs import RestyleJob, TuneSpec
from pipeline.workflows.tune import PRESET, preset_text, tune_catalogue

CONF = Path(__file__).parents[2] / "conf"
COVER = asdict(CoverSetting()) | {"inference_steps": 12, "timesteps": None, "shift": 2.0, "seed": 7}
TUNED = TuningResult(0.6, 7.0, 0.41, 0.35, 0.47, 90, 336, (), ((0.5, 7.0), (0.6, 9.0)))


@pytest.fixture
def job(tmp_path: Path) -> RestyleJob:
    return RestyleJob(manifest="m.csv", output=str(tmp_path / "out 1"), cover=COVER, caption='say "jazz": 曲')


def test_the_next_command_runs_the_setting_that_was_found(job: RestyleJob) -> None:
    file = Path(job.output) / PRESET
    file.parent.mkdir(parents=True)
    file.write_text(preset_text(job, TUNED))
    preset = read_preset(file)
    assert preset.caption == job.caption
    assert preset.ranges == {"audio_cover_strength": [0.5, 0.6], "guidance_scale": [7.0, 9.0]}

    said = "manifest=a.csv output=x preset=pop_to_jazz cover.guidance_scale=12 tune.tracks=3 model=demo_turbo"
    command = shlex.split(following(job.output, said.split()))
    assert command[:3] == ["python", "-m", "jobs.restyle"]
    GlobalHydra.instance().clear()
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        path, *others = sorted(command[3:], key=lambda word: not word.startswith("hydra."))
        found = job_of(compose("restyle", overrides=[path.replace("hydra.", "hydra."), *others]))
    assert found.manifest == "a.csv"
    assert found.model == "demo_turbo"
    assert found.preset == "tuned"
    wanted = COVER | {"audio_cover_strength": 0.6, "guidance_scale": 7.0, "seed": 42}
    assert dict(found.cover) == wanted


def test_a_remote_preset_is_to_be_copied() -> None:
    assert "copy s3://bucket/out/preset/tuned.yaml" in following("s3://bucket/out", ["manifest=a"])


@pytest.mark.parametrize(
    ("spec", "message"), [(TuneSpec(tracks=0), "tune.tracks 0"), (TuneSpec(seeds=0), "tune.seeds 0")]
)
def test_a_search_over_nothing_is_refused(job: RestyleJob, spec: TuneSpec, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        tune_catalogue(job, spec, None, print)  # type: ignore[arg-type]
