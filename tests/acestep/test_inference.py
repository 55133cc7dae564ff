"""The public API: the guide's example, seeds, independence, and what is refused."""

import copy
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from acestep.audio.files import FORMATS, encode_audio, load_audio, reference_clip
from acestep.constants import FSQ_CODES, KEYSCALES, TIME_SIGNATURES
from acestep.generation.conditions import prepare
from acestep.generation.params import SUPPORTED, WITH_BITRATE
from acestep.generation.request import ineffective_request_notes
from acestep.handler import AceStepHandler
from acestep.inference import GenerationConfig, GenerationParams, GenerationResult, generate_music
from acestep.language.language_model import LanguageModel
from acestep.language.prompt import Prompt
from tests import miniature
from tests.acestep.language.miniature_lm import write as write_language_model
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
    dit_handler, llm_handler = AceStepHandler.from_checkpoint(miniature.BASE, device="cpu"), None

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


@pytest.fixture(scope="module")
def plain(base: AceStepHandler, tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """The cover that nothing is changed of."""
    path = tmp_path_factory.mktemp("plain") / "country_song.wav"
    soundfile.write(path, tone(6.0), 48_000)
    return _once(base, cover(path)).audios[0]["tensor"]


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
        {"blend": "velocity"},
        {"cover_noise_strength": 0.5},
        {"guidance": "cfg"},
        {"use_adg": True},
        {"infer_method": "sde"},
        {"sampler_mode": "heun"},
        {"velocity_norm_threshold": 0.3},
        {"velocity_ema_factor": 0.2},
        {"dcw_enabled": True},
        {"retake_variance": 0.4, "retake_seed": 5},
        {"flow_edit_morph": True, "flow_edit_source_caption": "country"},
        {"stages": [{"caption": "rock"}, {}]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_supported_parameter_reaches_the_audio(
    base: AceStepHandler, source: Path, plain: torch.Tensor, change: dict
) -> None:
    if change.get("reference_audio"):
        change = {"reference_audio": str(source)}
    changed = _once(base, cover(source, **change))
    assert changed.success, changed.error
    assert not torch.equal(plain, changed.audios[0]["tensor"])


def _once(handler: AceStepHandler, params: GenerationParams) -> GenerationResult:
    return generate_music(handler, None, params, GenerationConfig(batch_size=1))


def test_instrumental_and_empty_lyrics_are_the_same_request(base: AceStepHandler, source: Path) -> None:
    empty, flag, text = (
        _once(base, cover(source, **change)).audios[0]["tensor"]
        for change in ({}, {"instrumental": True, "lyrics": "la"}, {"lyrics": "[Instrumental]"})
    )
    assert torch.equal(empty, flag)
    assert torch.equal(empty, text)


@pytest.mark.parametrize(
    ("params", "config", "name"),
    [
        ({"duration": 10.0}, {}, "duration"),
        ({"lyrics": "la la", "instrumental": True}, {}, "lyrics"),
        ({"seed": 5}, {"seeds": [9]}, "seed"),
        ({"lm_temperature": 0.9}, {}, "lm_temperature"),
        ({"use_cot_metas": False}, {}, "use_cot_metas"),
        ({"enable_normalization": False, "normalization_db": -6.0}, {}, "normalization_db"),
        ({}, {"mp3_bitrate": "320k"}, "mp3_bitrate"),
        ({}, {"audio_format": "opus", "mp3_sample_rate": 44_100}, "mp3_sample_rate"),
    ],
    ids=str,
)
def test_what_a_request_gives_and_nothing_reads_is_noted(params: dict, config: dict, name: str) -> None:
    asked, how = GenerationParams(**params), GenerationConfig(**{"batch_size": 1} | config)
    (note,) = ineffective_request_notes(asked, how)
    assert note.startswith(f"{name} ")
    assert "no effect: " in note


def test_what_a_request_gives_and_something_reads_is_not_noted() -> None:
    for params, config in (
        ({}, {}),
        ({"seed": 5}, {"seeds": [5]}),
        ({"thinking": True, "lm_temperature": 0.9}, {}),
        ({"normalization_db": -6.0}, {}),
        ({}, {"audio_format": "mp3", "mp3_bitrate": "320k", "mp3_sample_rate": 44_100}),
        ({}, {"audio_format": "opus", "mp3_bitrate": "320k"}),
        ({"lyrics": "[Instrumental]", "instrumental": True}, {}),
    ):
        assert (
            ineffective_request_notes(GenerationParams(**params), GenerationConfig(**{"batch_size": 1} | config))
            == []
        )


@pytest.mark.parametrize("audio_format", FORMATS)
def test_a_bitrate_is_for_the_formats_that_have_one(audio_format: str) -> None:
    wave = torch.from_numpy(tone(2.0).T.copy())
    low, high = (encode_audio(wave, audio_format, kbps) for kbps in (64, 256))
    assert (low != high) == (audio_format in WITH_BITRATE)


def test_upstreams_defaults_on_a_turbo_model_are_noted(turbo: AceStepHandler, source: Path) -> None:
    params = GenerationParams(task_type="cover", src_audio=str(source), caption="jazz", seed=1)
    result = generate_music(turbo, None, params, GenerationConfig(batch_size=1))
    assert result.extra_outputs["effective"]["shift"] == 1
    assert any(note.startswith("shift 1: ") for note in result.extra_outputs["notes"])


def test_no_number_of_steps_is_the_models_own(base: AceStepHandler, source: Path) -> None:
    result = _once(base, cover(source, inference_steps=None))
    assert result.extra_outputs["effective"]["inference_steps"] == 28


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
        assert (result.error or "").startswith(f"{field.name} ")
        assert "is not supported; leave it at its default" in (result.error or "")
        tried += 1
    assert tried > 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_type": "text2music"}, "task_type 'text2music' is not supported; use one of cover"),
        ({"src_audio": None}, "a cover needs one source: give src_audio"),
        ({"audio_codes": "<|audio_code_5|>"}, "a cover needs one source"),
        ({"src_audio": None, "audio_codes": "5 6"}, "audio_codes '5 6' cannot be read; write codes as"),
        (
            {"src_audio": None, "audio_codes": "<|audio_code_64000|>"},
            r"audio_codes 64000 is out of range; allowed: 0\.\.63999",
        ),
        ({"thinking": True}, "thinking is on and there is no language model"),
        ({"use_adg": True, "guidance": "cfg"}, "use_adg asks for adg and guidance for 'cfg'"),
        ({"stages": [{}, {"shft": 1}]}, "stage 2: unknown setting 'shft'; did you mean 'shift'"),
        ({"stages": ["rock"]}, "stage 1: 'rock' is not a mapping"),
        ({"stages": 5}, "stages 5 is not a list"),
        ({"stages": [{1: 2}]}, "stage 1: unknown setting 1"),
        ({"duration": "ten"}, "duration 'ten' is not a number"),
        ({"audio_codes": ["a"]}, "audio_codes \\['a'\\] is not text"),
        ({"src_audio": b"a.wav"}, "src_audio b'a.wav' is not text"),
        ({"lyrics": True}, "lyrics True is not text"),
        ({"instrumental": "no"}, "instrumental 'no' is not True or False"),
        ({"seed": True}, "seed True is not a whole number"),
        ({"retake_variance": 0.5, "retake_seed": 7}, "retake_seed 7 is the seed itself"),
        ({"src_audio": "/nowhere.wav"}, "/nowhere.wav: No such file"),
        ({"caption": ""}, "caption is empty"),
        ({"bpm": 5}, r"bpm 5 is out of range; allowed: 30\.\.300"),
        ({"keyscale": "H minor"}, "keyscale 'H minor' is unknown"),
        ({"timesignature": "5"}, "timesignature '5' is unknown; use one of 2, 3, 4, 6"),
        ({"vocal_language": "xx"}, "language 'xx' is unknown"),
        ({"audio_cover_strength": 1.5}, "audio_cover_strength 1.5 is out of range"),
        ({"seed": 2**32}, "seed 4294967296 is out of range"),
        ({"seed": -3}, "seed -3 is out of range"),
        ({"bpm": "fast"}, "bpm 'fast' is not a whole number"),
        ({"bpm": 0}, r"bpm 0 is out of range"),
        ({"caption": None}, "caption is empty"),
        ({"latent_rescale": float("inf")}, "latent_rescale inf is out of range"),
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
    assert "save_dir '/dev/null/x' cannot be written" in (result.error or "")
    for seeds in (2.5, "1,2", ["a"]):
        assert "seed" in (generate_music(base, None, cover(source), GenerationConfig(seeds=seeds)).error or "")
    result = generate_music(base, None, cover(source), GenerationConfig(batch_size=1, mp3_sample_rate=12345))
    assert "mp3_sample_rate 12345" in (result.error or "")


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
    narrow = AceStepHandler.from_checkpoint(miniature.BASE, device="cpu", dtype=dtype)
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


def test_codes_stand_in_for_a_source(base: AceStepHandler, source: Path) -> None:
    """The codes of a track, given instead of it, are the same cover: the source is nothing but its codes."""
    prepared = prepare(base, load_audio(source), Prompt("x"), [], encode=True)
    codes = "".join(f"<|audio_code_{code}|>" for code in prepared.source_codes()[0].tolist())
    whole = {"audio_cover_strength": 1.0, "caption": "metal"}
    from_file, from_codes = (
        _once(base, cover(source, **whole, **change)) for change in ({}, {"src_audio": None, "audio_codes": codes})
    )
    latents, same = (r.extra_outputs["latents"] for r in (from_file, from_codes))
    assert torch.allclose(latents, same, atol=1e-4)
    for change in ({"cover_noise_strength": 0.5}, {"task_type": "cover-nofsq"}):
        refused = _once(base, cover(source, src_audio=None, audio_codes=codes, **change))
        assert "audio_codes do not hold them; give src_audio" in (refused.error or "")


def test_reference_picks(base: AceStepHandler, source: Path, tmp_path: Path) -> None:
    reference = tmp_path / "reference.wav"
    soundfile.write(reference, np.concatenate([tone(9.0, pitch_hz=p) for p in (110, 220, 330, 440)]), 48_000)
    picks = {
        (pick, seed): _once(base, cover(source, reference_audio=str(reference), reference_pick=pick, seed=seed))
        for pick, seed in (("fixed", 7), ("random", 7), ("full", 7))
    }
    tensors = [result.audios[0]["tensor"] for result in picks.values()]
    assert not any(torch.equal(a, b) for i, a in enumerate(tensors) for b in tensors[:i])
    wave = load_audio(reference)
    assert torch.equal(reference_clip(wave, "random", 3), reference_clip(wave, "random", 3))
    ramp = torch.arange(wave.shape[1]).expand(2, -1)
    third = wave.shape[1] // 3
    for k, piece in enumerate(reference_clip(ramp, "random", 3).split(480_000, dim=1)):
        assert k * third <= piece[0, 0] <= (k + 1) * third - 480_000
        assert torch.equal(piece[0], torch.arange(480_000) + piece[0, 0])
    assert not torch.equal(reference_clip(wave, "random", 3), reference_clip(wave, "random", 4))
    assert reference_clip(wave, "full").shape == wave.shape


def test_a_cover_that_lost_its_energy_is_an_error(base: AceStepHandler, source: Path) -> None:
    """A decoder turned down to nothing gives what users hear from cover_noise_strength: near silence."""
    autoencoder = copy.deepcopy(base.autoencoder)
    dict(autoencoder.named_parameters())["decoder.conv2.weight"].mul_(1e-6)  # random weights are loud
    quiet = replace(base, autoencoder=autoencoder)
    result = _once(quiet, cover(source, cover_noise_strength=0.5))
    assert not result.success
    assert "the output's energy collapsed" in (result.error or "")
    assert "lower cover_noise_strength" in (result.error or "")
    assert _once(quiet, cover(source)).success
    assert _once(base, cover(source, cover_noise_strength=0.5)).success


def test_nothing_starts_from_a_silent_source(base: AceStepHandler, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros((48_000 * 6, 2)), 48_000)
    for change in (
        {"cover_noise_strength": 0.5},
        {"flow_edit_morph": True, "flow_edit_source_caption": "country"},
    ):
        result = _once(base, cover(tmp_path / "silent.wav", **change))
        assert "read the latents of the source itself: it is silent" in (result.error or "")


def test_lyrics_of_both_sides_of_an_edit(base: AceStepHandler, source: Path) -> None:
    """Equal captions leave the lyrics alone to differ; a source without lyrics of its own has the track's."""
    edit = {"flow_edit_morph": True, "flow_edit_source_caption": "metal", "caption": "metal", "lyrics": "oh"}
    same, spoken, other = (
        _once(base, cover(source, **edit, flow_edit_source_lyrics=words)).extra_outputs["latents"]
        for words in ("", "oh", "la la la")
    )
    assert torch.equal(same, spoken)
    assert not torch.allclose(same, other, atol=1e-3)


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = write_language_model(tmp_path_factory.mktemp("lm") / "model", codes=range(FSQ_CODES))
    return LanguageModel.from_checkpoint(folder, torch.device("cpu"), torch.float32)


def test_the_language_model_fills_what_the_request_leaves_open(
    base: AceStepHandler, source: Path, listener: LanguageModel
) -> None:
    def thinking(**changes: object) -> GenerationResult:
        return generate_music(
            base, listener, cover(source, thinking=True, **changes), GenerationConfig(batch_size=1)
        )

    heard = thinking()
    assert heard.success, heard.error
    found = heard.audios[0]["params"]
    assert found["bpm"] in range(30, 301)
    assert found["keyscale"] in KEYSCALES
    assert found["timesignature"] in TIME_SIGNATURES
    assert found["caption"] == "heavy metal, distorted guitars"
    assert any(
        note == f"bpm {found['bpm']} was found by the language model" for note in heard.extra_outputs["notes"]
    )
    given = {name: found[name] for name in ("bpm", "keyscale", "timesignature", "vocal_language")}
    spoken = _once(base, cover(source, **given))
    assert torch.equal(spoken.audios[0]["tensor"], heard.audios[0]["tensor"])
    assert thinking(bpm=99).audios[0]["params"]["bpm"] == 99
    assert thinking(use_cot_metas=False).audios[0]["params"]["bpm"] is None
    deaf = generate_music(base, listener, cover(source), GenerationConfig(batch_size=1))
    assert deaf.audios[0]["params"]["bpm"] is None
