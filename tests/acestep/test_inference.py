"""The public API: the guide's example, seeds, independence, and what is refused."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from acestep.audio import encode_audio, load_audio
from acestep.handler import AceStepHandler
from acestep.inference import GenerationConfig, GenerationParams, GenerationResult, generate_music
from acestep.request import SUPPORTED
from tests.conftest import tone


def cover(source: Path, **changes: object) -> GenerationParams:
    values = {
        "task_type": "cover",
        "src_audio": str(source),
        "caption": "heavy metal, distorted guitars",
        "inference_steps": 4,
        "guidance_scale": 5.0,
        "audio_cover_strength": 0.5,
        "seed": 7,
    }
    return GenerationParams(**values | changes)


def test_the_guides_example_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(tmp_path / "country_song.mp3").write_bytes(encode_audio(torch.from_numpy(tone(6.0).T.copy()), "mp3"))
    monkeypatch.chdir(tmp_path)
    dit_handler, llm_handler = AceStepHandler.from_checkpoint("demo", device="cpu"), None

    params = GenerationParams(
        task_type="cover",
        src_audio="country_song.mp3",
        caption="heavy metal rock with heavily distorted electric guitars",
        audio_cover_strength=0.4,
        inference_steps=28,
        guidance_scale=9.0,
        shift=3.0,
        cfg_interval_start=0.0,
        cfg_interval_end=0.95,
        infer_method="ode",
        seed=42,
    )
    result = generate_music(
        dit_handler, llm_handler, params, GenerationConfig(batch_size=1, audio_format="wav"), save_dir="./output"
    )

    assert result.success, result.error
    (audio,) = result.audios
    assert Path(audio["path"]).parent == Path("output")
    samples, rate = soundfile.read(audio["path"])
    assert rate == audio["sample_rate"] == 48_000
    assert audio["tensor"].shape == (2, samples.shape[0])
    assert abs(samples.shape[0] - 6 * 48_000) < 4000  # the source's length, in whole latent frames
    assert np.abs(samples).max() == pytest.approx(10 ** (-1 / 20), abs=1e-3)
    assert audio["params"]["seed"] == 42
    assert result.extra_outputs["effective"]["cover_steps"] == 11


def test_seeds_count_up_and_do_not_depend_on_the_batch(base: AceStepHandler, source: Path) -> None:
    batch = generate_music(base, None, cover(source), GenerationConfig(batch_size=3))
    alone = generate_music(base, None, cover(source, seed=8), GenerationConfig(batch_size=1))
    assert [a["params"]["seed"] for a in batch.audios] == [7, 8, 9]
    assert torch.equal(batch.audios[1]["tensor"], alone.audios[0]["tensor"])
    assert not torch.equal(batch.audios[0]["tensor"], alone.audios[0]["tensor"])
    listed = generate_music(base, None, cover(source), GenerationConfig(batch_size=2, seeds=[8, 3]))
    assert torch.equal(listed.audios[0]["tensor"], alone.audios[0]["tensor"])
    chance = [generate_music(base, None, cover(source, seed=-1), GenerationConfig(batch_size=1)) for _ in "ab"]
    assert len({r.audios[0]["params"]["seed"] for r in chance}) == 2


def test_turbo_runs_and_reports_what_it_ignores(turbo: AceStepHandler, source: Path) -> None:
    guided, plain = (
        generate_music(turbo, None, cover(source, guidance_scale=g), GenerationConfig(batch_size=1))
        for g in (9, 1)
    )
    assert torch.equal(guided.audios[0]["tensor"], plain.audios[0]["tensor"])
    assert any("guidance_scale 9 has no effect" in note for note in guided.extra_outputs["notes"])
    assert guided.extra_outputs["effective"]["guidance_scale"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"audio_cover_strength": 0.0},
        {"audio_cover_strength": 1.0},
        {"guidance_scale": 2.0},
        {"task_type": "cover-nofsq"},
        {"caption": "smooth jazz"},
        {"lyrics": "la la la"},
        {"vocal_language": "en"},
        {"bpm": 90},
        {"keyscale": "E minor"},
        {"timesignature": "3"},
        {"instruction": "Follow the codes:"},
        {"shift": 3.0},
        {"inference_steps": 5},
        {"cfg_interval_end": 0.4},
        {"latent_shift": 0.1},
        {"latent_rescale": 0.9},
        {"fade_in_duration": 1.0},
        {"normalization_db": -6.0},
        {"reference_audio": "source"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_supported_parameter_reaches_the_audio(base: AceStepHandler, source: Path, change: dict) -> None:
    if change.get("reference_audio"):
        change = {"reference_audio": str(source)}
    plain = _once(base, cover(source))
    changed = _once(base, cover(source, **change))
    assert changed.success, changed.error
    assert not torch.equal(plain.audios[0]["tensor"], changed.audios[0]["tensor"])


def _once(handler: AceStepHandler, params: GenerationParams) -> GenerationResult:
    return generate_music(handler, None, params, GenerationConfig(batch_size=1))


def test_instrumental_and_empty_lyrics_are_the_same_request(base: AceStepHandler, source: Path) -> None:
    empty, flag, text = (
        _once(base, cover(source, **change)).audios[0]["tensor"]
        for change in ({}, {"instrumental": True, "lyrics": "la"}, {"lyrics": "[Instrumental]"})
    )
    assert torch.equal(empty, flag)
    assert torch.equal(empty, text)


def test_unsupported_fields_are_refused_not_ignored(base: AceStepHandler, source: Path) -> None:
    default = GenerationParams()
    tried = 0
    for field in fields(GenerationParams):
        if field.name in SUPPORTED:
            continue
        value = getattr(default, field.name)
        changed = not value if isinstance(value, bool) else "x" if isinstance(value, str | None) else value + 1
        result = _once(base, cover(source, **{field.name: changed}))
        assert not result.success
        assert f"{field.name}={changed!r} is not supported yet" in (result.error or "")
        tried += 1
    assert tried > 30


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_type": "text2music"}, "task_type 'text2music' is not supported; use one of cover"),
        ({"src_audio": None}, "src_audio is empty"),
        ({"src_audio": "/nowhere.wav"}, "/nowhere.wav: No such file"),
        ({"caption": ""}, "caption is empty"),
        ({"bpm": 5}, r"bpm 5 is out of range; allowed: 30\.\.300"),
        ({"keyscale": "H minor"}, "keyscale 'H minor' is unknown"),
        ({"timesignature": "5"}, "timesignature '5' is unknown; use one of 2, 3, 4, 6"),
        ({"vocal_language": "xx"}, "language 'xx' is unknown"),
        ({"audio_cover_strength": 1.5}, "audio_cover_strength 1.5 is out of range"),
        ({"seed": 2**32}, "seed 4294967296 is out of range"),
        ({"seed": None}, "seed None is not a whole number"),
        ({"bpm": "90"}, "bpm '90' is not a whole number"),
        ({"caption": None}, "caption None is not text"),
        ({"latent_rescale": float("nan")}, "latent_rescale nan is out of range"),
        ({"normalization_db": 6}, r"normalization_db 6 is out of range; allowed: -60\.\.0"),
        ({"fade_in_duration": -1}, "fade_in_duration -1 is out of range"),
    ],
)
def test_bad_requests_name_the_value(base: AceStepHandler, source: Path, changes: dict, message: str) -> None:
    import re

    result = _once(base, cover(source, **changes))
    assert not result.success
    assert re.search(message, result.error or "")


def test_files_that_cannot_be_written_are_an_error(base: AceStepHandler, source: Path) -> None:
    config = GenerationConfig(batch_size=1)
    result = generate_music(base, None, cover(source), config, save_dir="/dev/null/x")
    assert not result.success
    assert "save_dir /dev/null/x: cannot be written" in (result.error or "")
    result = generate_music(base, None, cover(source), GenerationConfig(batch_size=1, mp3_sample_rate=12345))
    assert "mp3_sample_rate 12345 is not one of" in (result.error or "")


def test_the_covers_own_instruction_said_aloud_changes_nothing(base: AceStepHandler, source: Path) -> None:
    spoken = "Generate audio semantic tokens based on the given conditions:"
    plain, same = (_once(base, cover(source, **c)).audios[0]["tensor"] for c in ({}, {"instruction": spoken}))
    assert torch.equal(plain, same)


def test_text_that_the_model_cannot_read_to_its_end_is_noted(base: AceStepHandler, source: Path) -> None:
    result = _once(base, cover(source, caption="jazz " * 80))
    assert any("caption too long" in note for note in result.extra_outputs["notes"])
    assert not any("too long" in n for n in _once(base, cover(source, caption="jazz")).extra_outputs["notes"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_dtypes_run_and_stay_near(base: AceStepHandler, source: Path, dtype: str) -> None:
    """From the same codes on: rounding them is kept out by following no source."""
    narrow = AceStepHandler.from_checkpoint("demo", device="cpu", dtype=dtype)
    exact, rounded = (_once(h, cover(source, audio_cover_strength=0.0)) for h in (base, narrow))
    latents, near = (r.extra_outputs["latents"] for r in (exact, rounded))
    assert near.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(latents.flatten(), near.flatten(), dim=0) > 0.95


def test_short_and_silent_sources(base: AceStepHandler, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", tone(0.01), 48_000)
    soundfile.write(tmp_path / "silent.wav", np.zeros((48_000 * 6, 2)), 48_000)
    short, silent = (_once(base, cover(tmp_path / name)) for name in ("short.wav", "silent.wav"))
    assert short.audios[0]["tensor"].shape[1] == 128 * 1920
    assert silent.audios[0]["tensor"].shape[1] == 150 * 1920
    assert torch.isfinite(silent.audios[0]["tensor"]).all()


def test_files_hold_what_the_tensor_holds(base: AceStepHandler, source: Path, tmp_path: Path) -> None:
    result = generate_music(
        base, None, cover(source), GenerationConfig(batch_size=1, audio_format="flac"), tmp_path / "deep" / "out"
    )
    assert (load_audio(result.audios[0]["path"]) - result.audios[0]["tensor"]).abs().max() < 1e-4
