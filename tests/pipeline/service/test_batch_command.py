"""From a request to a catalogue job: what the command and its manifest say comes back as the same covers."""

import itertools
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from acestep.errors import RequestError
from acestep.generation.params import GenerationConfig, GenerationParams
from jobs.restyle import job_of
from jobs.schema import register
from pipeline.catalogue.manifest import Track, read_manifest
from pipeline.planning.items import ItemRules, ModelFacts, make_items
from pipeline.service.batch_command import command_of, manifest_of
from pipeline.service.config import Limits, ServiceSpec
from pipeline.service.generation_request import GenerationRequest, make_generation_request
from pipeline.service.source_access import AdmittedSource
from pipeline.workflows.specs import RestyleJob

CONF = Path(__file__).parents[3] / "conf"
MODEL = ModelFacts("demo", "f00d", is_turbo=False, dtype="float32")
SPEC = ServiceSpec("/kept/out")
PARAMS = GenerationParams(task_type="cover", caption="jazz", seed=3, inference_steps=8)
ONE = GenerationConfig(batch_size=1)
# What a shell, Hydra, OmegaConf or a CSV reader could take for something else.
AWKWARD = (
    "a, b=c; {d: 'e'} [f] \"g\"",
    "it's ${oc.env:HOME} $(id) `id` \\",
    "\\${x} \\\\' \\'",
    "two\nlines\tand a tab",
    "007",
    "null",
    "true",
    "1e3",
    "~",
    "- ? #:",
    "caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{CJK UNIFIED IDEOGRAPH-66F2}",
)


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    register()
    yield
    GlobalHydra.instance().clear()


def order_of(params: GenerationParams, config: GenerationConfig = ONE) -> GenerationRequest:
    source = AdmittedSource("/kept/out/uploads/5eed", "5eed", 6.0)
    return make_generation_request(params, config, source, None, MODEL, Limits())


def job_by_hydra(command: str) -> RestyleJob:
    """The job that the command would run, read as a shell and Hydra read it."""
    words = shlex.split(command)
    assert words[:3] == [sys.executable, "-m", "jobs.restyle"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return job_of(compose("restyle", overrides=words[3:]))


def items_of(job: RestyleJob, manifest: bytes, folder: Path) -> list[str]:
    """Ids of the covers that the job plans for the one track of a manifest."""
    (folder / "manifest.csv").write_bytes(manifest)
    (track,) = read_manifest(str(folder / "manifest.csv"))
    assert isinstance(track, Track), track
    rules = ItemRules(job.settings(), MODEL, job.audio_format, duplicates=job.duplicates)
    return [item["item_id"] for item in make_items(track, "5eed", None, rules)]


def same_covers(params: GenerationParams, folder: Path, config: GenerationConfig = ONE) -> RestyleJob:
    """The job of a request, seen to make the request's covers and no others."""
    request = order_of(params, config)
    command = command_of("m.csv", "out", SPEC, params, config, request.track["config"]["seeds"])
    job = job_by_hydra(command)
    assert items_of(job, manifest_of(request.track), folder) == list(request.item_ids)
    return job


@pytest.mark.parametrize("text", AWKWARD)
def test_any_words_arrive_as_they_are(text: str, tmp_path: Path) -> None:
    edited = replace(PARAMS, caption=text, lyrics=text, flow_edit_morph=True, flow_edit_source_caption=text)
    job = same_covers(edited, tmp_path)
    assert job.cover["flow_edit_source_caption"] == text

    staged = replace(PARAMS, stages=[{"caption": text, "lyrics": text, "audio_cover_strength": 0.75}, {}])
    assert same_covers(staged, tmp_path).stages == [*(staged.stages or ())]


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_scale": 12.5, "shift": 1.0, "cfg_interval_start": 0.1, "cfg_interval_end": 1.0},
        {"audio_cover_strength": 0.0, "cover_noise_strength": 0.33, "infer_method": "sde"},
        {"timesteps": [1.0, 0.5, 0.25, 1e-5], "inference_steps": None},
        {"use_adg": True},
        {"instrumental": True, "lyrics": "left unsung"},
        {"bpm": 108, "keyscale": "G major", "timesignature": "4", "vocal_language": "en", "lyrics": "la\nla"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_setting_arrives(changes: dict[str, Any], tmp_path: Path) -> None:
    same_covers(replace(PARAMS, **changes), tmp_path)


def test_several_seeds_and_another_format(tmp_path: Path) -> None:
    for config in (
        GenerationConfig(batch_size=3, audio_format="mp3"),
        GenerationConfig(batch_size=2, seeds=[9, 2]),
    ):
        assert same_covers(PARAMS, tmp_path, config).audio_format == config.audio_format


def test_a_grid_is_the_covers_of_its_cells(tmp_path: Path) -> None:
    axes = {"audio_cover_strength": [0.3, 0.31, 0.6], "guidance_scale": [3.0, 9.0]}
    request = order_of(PARAMS)
    job = job_by_hydra(command_of("m.csv", "out", SPEC, PARAMS, ONE, [3], axes))
    cells = [
        order_of(replace(PARAMS, audio_cover_strength=strength, guidance_scale=guidance)).item_ids[0]
        for strength, guidance in itertools.product(*axes.values())
    ]
    planned = items_of(job, manifest_of(request.track), tmp_path)
    assert len(planned) == 4  # 0.3 and 0.31 are both 2 of 8 steps
    assert set(planned) == set(cells)


def test_the_service_of_the_request_is_the_model_of_the_job() -> None:
    spec = ServiceSpec(
        "out", model="turbo", variant="v 1", adapter="/a b", adapter_scale=0.5, dtype="float32", device="cpu"
    )
    job = job_by_hydra(command_of("/in a folder/m.csv", "s3://b/o?region=x&y=z", spec, PARAMS, ONE, [3]))
    for name in ("model", "variant", "adapter", "adapter_scale", "dtype", "device"):
        assert getattr(job, name) == getattr(spec, name)
    assert (job.manifest, job.output) == ("/in a folder/m.csv", "s3://b/o?region=x&y=z")


def test_what_a_catalogue_does_not_know_is_refused() -> None:
    with pytest.raises(RequestError, match="instruction is no parameter of a catalogue; leave it"):
        command_of("m.csv", "out", SPEC, replace(PARAMS, instruction="play it"), ONE, [3])
