"""Presets, stages and grids, run by the job on the miniature models."""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from rich.console import Console

from acestep.audio.files import encode_audio
from acestep.constants import FSQ_CODES
from acestep.handler import AceStepHandler
from acestep.inference import GenerationConfig, GenerationParams, generate_music
from acestep.language.language_model import LanguageModel
from jobs.presets import read_presets
from jobs.restyle import job_of
from jobs.schema import register
from pipeline.results.reader import read_results
from pipeline.storage.store import open_store
from pipeline.workflows.console import ConsoleReporter
from pipeline.workflows.restyle import Summary, run
from tests.acestep.language.miniature_lm import write as write_language_model
from tests.conftest import tone
from tests.job_command import run_job
from tests.miniature import BASE, TURBO

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
PRESETS = [preset.name for preset in read_presets([CONF])]
# All six run from a mixed manifest in every test run; two of them alone, the others behind the marker.
ALONE = [PRESETS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in PRESETS[1:])]
FEW = ("cover.inference_steps=2",)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("knobs")
    for name, pitch in (("a", 220.0), ("b", 330.0), ("c", 440.0)):
        soundfile.write(folder / f"{name}.flac", tone(5.2, pitch_hz=pitch), 48_000)
    return folder


def write(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> None:
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def restyle(
    folder: Path, manifest: str, output: str, *overrides: str, by_hand: Sequence[str] = ()
) -> tuple[Summary, list[dict[str, Any]]]:
    """A job as the command line composes it, in this process."""
    given = (
        f"manifest={folder}/{manifest}.jsonl",
        f"output={folder}/{output}",
        f"model={BASE}",
        "tracking.enabled=false",
        "metrics=off",
    )
    GlobalHydra.instance().clear()
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = job_of(compose("restyle", overrides=[*given, *overrides]), by_hand, read_presets([CONF]))
    summary = run(job, ConsoleReporter(Console(file=io.StringIO())))
    return summary, read_results(open_store(str(folder / output))).to_pylist()


def the_jobs_request(source: Path, **changes: Any) -> GenerationParams:
    """The request that the job makes of a track in two steps, its defaults written out."""
    values = {"inference_steps": 2, "guidance_scale": 9.0, "shift": 3.0, "cfg_interval_end": 0.95, "seed": 42}
    return GenerationParams(task_type="cover", src_audio=str(source), audio_cover_strength=0.5, **values | changes)


@pytest.mark.usefixtures("local_pool")
@pytest.mark.parametrize("name", ALONE)
def test_every_preset_runs_from_the_command_line(catalogue: Path, name: str) -> None:
    (preset,) = (p for p in read_presets([CONF]) if p.name == name)
    write(catalogue, "plain", [{"track_id": "a", "source": "a.flac"}])
    summary, (row,) = restyle(catalogue, "plain", name, f"preset={name}", *FEW)
    assert summary.complete
    assert row["caption"] == preset.caption
    wanted = {**preset.cover, "inference_steps": 2}
    assert {key: row[key] for key in wanted} == wanted


@pytest.mark.usefixtures("local_pool")
def test_a_manifest_of_mixed_genres_takes_a_preset_for_each_row(catalogue: Path) -> None:
    presets = read_presets([CONF])
    rows: list[dict[str, Any]] = [
        {
            "track_id": p.name,
            "source": f"{'abc'[i % 3]}.flac",
            "source_genre": p.source_genre.upper(),
            "target_genre": p.target_genre,
        }
        for i, p in enumerate(presets)
    ]
    rows[0] |= {"caption": "my own words", "audio_cover_strength": 0.9}
    rows += [
        {"track_id": "none", "source": "a.flac", "caption": "waltz"},
        {"track_id": "odd", "source": "a.flac", "caption": "x", "source_genre": "polka", "target_genre": "noise"},
        {"track_id": "half", "source": "a.flac", "caption": "x", "source_genre": "pop"},
    ]
    write(catalogue, "mixed", rows)
    given = (*FEW, "cover.guidance_scale=6")
    summary, results = restyle(catalogue, "mixed", "mixed", *given, by_hand=("inference_steps", "guidance_scale"))
    assert (summary.ok, summary.failed, summary.rejected) == (7, 0, 2)
    found = {row["track_id"]: row for row in results}
    for preset in presets:
        row = found[preset.name]
        own = preset is presets[0]
        assert row["preset"] == preset.name
        assert row["caption"] == ("my own words" if own else preset.caption)
        assert row["audio_cover_strength"] == (0.9 if own else preset.cover["audio_cover_strength"])
        assert (row["guidance_scale"], row["inference_steps"]) == (6, 2)
    assert (found["none"]["preset"], found["none"]["audio_cover_strength"]) == (None, 0.5)
    refused = {row["track_id"]: row["error_message"] for row in summary.problems.to_pylist()}
    assert "no preset goes from 'polka' to 'noise'; known: acoustic -> orchestral" in refused["odd"]
    assert "name a preset together; give both" in refused["half"]


@pytest.mark.usefixtures("local_pool")
def test_stages_are_rows_that_name_their_parents(catalogue: Path, base: AceStepHandler) -> None:
    write(catalogue, "one", [{"track_id": "a", "source": "a.flac", "caption": "heavy metal"}])
    stages = [{"caption": "folk rock", "audio_cover_strength": 0.8}, {"caption": "rock"}, {}]
    texts = [json.dumps(stage).replace('"', "") for stage in stages]
    _, two = restyle(catalogue, "one", "chain", *FEW, f"stages=[{','.join(texts[:2])}]")
    summary, rows = restyle(catalogue, "one", "chain", *FEW, f"stages=[{','.join(texts)}]")
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert (len(two), summary.new, summary.complete) == (2, 1, True)  # the first two were there already
    assert [row["stage"] for row in rows] == [1, 2, 3]
    assert [row["parent_item_id"] for row in rows] == [None, rows[0]["item_id"], rows[1]["item_id"]]
    assert [row["caption"] for row in rows] == ["folk rock", "rock", "heavy metal"]
    assert [row["audio_cover_strength"] for row in rows] == [0.8, 0.5, 0.5]
    params = the_jobs_request(catalogue / "a.flac", caption="heavy metal", stages=stages)
    (audio,) = generate_music(base, None, params, GenerationConfig(batch_size=1)).audios
    assert hashlib.sha256(encode_audio(audio["tensor"], "flac")).hexdigest() == rows[2]["audio_sha256"]


STRENGTHS, GUIDANCE = "grid.audio_cover_strength=[0.3,0.35,0.4,0.5,0.6]", [7, 8, 9, 10]


def test_a_grid_that_repeats_itself_on_turbo_is_refused(catalogue: Path) -> None:
    write(catalogue, "one", [{"track_id": "a", "source": "a.flac", "caption": "heavy metal"}])
    places = (f"manifest={catalogue}/one.jsonl", f"output={catalogue}/t")
    done = run_job("restyle", *places, f"model={TURBO}", STRENGTHS, f"grid.guidance_scale={GUIDANCE}")
    assert done.returncode == 2
    assert "s0.30 g7.0 = s0.30 g8.0 = s0.30 g9.0 = s0.30 g10.0 = s0.35 g7.0" in done.stderr
    assert "each runs 8 steps, 2 of them on the source, guidance 1" in done.stderr
    assert "guidance_scale 7 has no effect: turbo models have guidance built in" in done.stderr
    assert "keep the first of each with grid.duplicates=run_once" in done.stderr
    assert not (catalogue / "t" / "audio").exists()


@pytest.mark.usefixtures("local_pool")
@pytest.mark.parametrize("guidance", [GUIDANCE[::3], pytest.param(GUIDANCE, marks=pytest.mark.slow)], ids=len)
def test_the_same_grid_runs_on_base_and_once_each_on_turbo(catalogue: Path, guidance: list[int]) -> None:
    grid, count = (STRENGTHS, f"grid.guidance_scale={guidance}"), 5 * len(guidance)
    write(catalogue, "one", [{"track_id": "a", "source": "a.flac", "caption": "heavy metal"}])
    summary, rows = restyle(catalogue, "one", f"base{count}", *grid, "cover.inference_steps=20")
    assert (summary.ok, summary.complete) == (count, True)
    assert len({row["audio_sha256"] for row in rows}) == count
    summary, rows = restyle(catalogue, "one", f"turbo{count}", *grid, f"model={TURBO}", "grid.duplicates=run_once")
    assert summary.ok == 3
    assert {(row["audio_cover_strength"], row["effective_guidance_scale"]) for row in rows} == {
        (0.3, 1.0),
        (0.4, 1.0),
        (0.5, 1.0),
    }
    written = json.loads((catalogue / f"turbo{count}" / "job.json").read_text())["settings"]
    assert len(written[0]["stands_for"]) == 2 * len(guidance) - 1


@pytest.mark.usefixtures("local_pool")
def test_the_language_model_fills_in_what_rows_leave_open(catalogue: Path, base: AceStepHandler) -> None:
    folder = write_language_model(catalogue / "lm", codes=range(FSQ_CODES))
    rows = [
        {"track_id": "open", "source": "a.flac", "caption": "metal"},
        {"track_id": "given", "source": "a.flac", "caption": "metal", "bpm": 99, "keyscale": "E minor"},
    ]
    write(catalogue, "facts", rows)
    summary, results = restyle(catalogue, "facts", "facts", *FEW, f"language_model={folder}")
    assert summary.complete
    found = {row["track_id"]: row for row in results}
    heard = found["open"]
    assert heard["bpm"] in range(30, 301)
    assert f"bpm {heard['bpm']} was found by the language model" in heard["notes"]
    assert (found["given"]["bpm"], found["given"]["keyscale"]) == (99, "E minor")
    assert found["given"]["timesignature"] == heard["timesignature"]
    params = the_jobs_request(catalogue / "a.flac", caption="metal", thinking=True)
    listener = LanguageModel.from_checkpoint(folder, torch.device("cpu"), torch.float32)
    (audio,) = generate_music(base, listener, params, GenerationConfig(batch_size=1)).audios
    assert audio["params"]["bpm"] == heard["bpm"]
    assert hashlib.sha256(encode_audio(audio["tensor"], "flac")).hexdigest() == heard["audio_sha256"]
