"""Validation: every part is looked at by itself, no catalogue is held, and nothing is made."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from acestep.audio.files import FORMATS, encode_audio
from acestep.checkpoints.checkpoint import fingerprint
from acestep.checkpoints.folders import locate
from acestep.errors import RequestError
from acestep.sampling.setting import CoverSetting
from pipeline.catalogue.manifest import parse_track, read_manifest
from pipeline.catalogue.probe import probe, probe_all
from pipeline.catalogue.problem_report import KEPT, ProblemLog, ReportedProblem
from pipeline.catalogue.source_check import check_decoding, check_sources
from pipeline.cluster.spec import ClusterSpec
from pipeline.planning.disk_space import DiskSpace, max_bytes, space_for
from pipeline.planning.estimate import Estimate
from pipeline.results.writer import ResultWriter, as_table
from pipeline.storage.store import open_output, open_store
from pipeline.tracking.spec import TrackingSpec
from pipeline.workflows.restyle_job import open_job
from pipeline.workflows.specs import RestyleJob, ValidateSpec
from pipeline.workflows.validate import PartCheck, Validation, validate
from tests import miniature
from tests.acestep.checkpoints.test_hub import point_to
from tests.audio_files import with_streams
from tests.conftest import tone
from tests.hub_server import Hub, serve

SIZES = (("A", (2, 64)), ("B", (64, 2)))  # of a pair for the miniature model
COVER = {"seed": 1, **{name: getattr(CoverSetting(), name) for name in ("inference_steps", "guidance_scale")}}


class Watching:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.checks: dict[str, PartCheck] = {}

    def checked(self, check: PartCheck) -> None:
        self.checks[check.name] = check

    def looked(self, done: int, total: int) -> None:
        assert done <= total


def job_of(folder: Path, rows: list[dict], **values: object) -> RestyleJob:
    (folder / "tracks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = {"output": str(folder / "out"), "cover": COVER, "model": miniature.BASE}
    given |= {"cluster": ClusterSpec(address="local")} | values
    return RestyleJob(str(folder / "tracks.jsonl"), **given)


def looked_at(job: RestyleJob, **how: object) -> tuple[Validation, dict[str, PartCheck]]:
    watching = Watching()
    found = validate(job, ValidateSpec(**how), watching)
    return found, watching.checks


@pytest.fixture
def row(tmp_path: Path) -> dict:
    soundfile.write(tmp_path / "a.wav", tone(12.0), 48_000)
    return {"track_id": "a", "source": "a.wav", "caption": "jazz"}


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_a_sound_job_leaves_nothing_but_what_is_known_of_its_sources(tmp_path: Path, row: dict) -> None:
    found, checks = looked_at(job_of(tmp_path, [row]))
    assert found.ok
    assert found.can_start
    names = ["configuration", "model", "output", "tracking", "manifest", "settings", "sources", "plan", "space"]
    assert list(checks) == names
    assert found.forecast is not None
    assert (found.forecast.items, found.forecast.worker_hours) == (1, None)
    assert files(tmp_path / "out") == {"probes"}


def test_a_tracker_that_takes_no_runs_is_found_and_the_job_can_start(tmp_path: Path, row: dict) -> None:
    (tmp_path / "runs.db").write_bytes(b"no database " * 1000)
    tracking = TrackingSpec(uri=f"sqlite:///{tmp_path}/runs.db")
    found, checks = looked_at(job_of(tmp_path, [row], tracking=tracking), report=str(tmp_path / "report.csv"))
    assert found.can_start
    assert not found.ok
    assert checks["tracking"].bad
    assert "not a database" in checks["tracking"].said
    assert "not a database" in (tmp_path / "report.csv").read_text()
    assert not (tmp_path / "mlartifacts").exists()

    found, checks = looked_at(job_of(tmp_path, [row], tracking=TrackingSpec(uri="foo://host")))
    assert not found.can_start
    assert checks["tracking"].errors
    _, checks = looked_at(job_of(tmp_path, [row], tracking=TrackingSpec(enabled=False, uri="foo://host")))
    assert "tracking" not in checks


def test_nothing_that_is_wrong_hides_anything_else(tmp_path: Path, row: dict) -> None:
    missing = row | {"track_id": "b", "source": "gone.wav"}
    job = job_of(
        tmp_path,
        [row, missing, row],
        output="/dev/null/x",
        model=str(tmp_path / "no_model"),
        adapter=str(tmp_path / "no_adapter"),
        language_model="nothing",
        grid={"shift": [2.0, 2.0]},
        audio_format="ogg",
        dtype="int4",
        max_attempts=1,
        cluster=ClusterSpec(address="127.0.0.1:9"),
    )
    found, checks = looked_at(job)
    assert not found.can_start
    assert found.forecast is None
    said = {name: check.errors for name, check in checks.items() if check.errors}
    assert set(said) == {"configuration", "model", "adapter", "language model", "output", "settings"}
    assert len(said["configuration"]) == 4
    assert found.counts == {"missing_file": 1, "duplicate_track_id": 1}
    assert checks["sources"].said.startswith("1 of 2 tracks can be run")


def test_a_column_that_cannot_be_used_does_not_hide_rows_and_sources(tmp_path: Path, row: dict) -> None:
    rows = [
        row | {"title": "x"},
        row | {"track_id": "b", "source": "gone.wav"},
        row | {"track_id": "c", "bpm": "x"},
    ]
    found, checks = looked_at(job_of(tmp_path, rows))
    assert not found.can_start
    assert [name for name, check in checks.items() if check.errors] == ["manifest"]
    assert "unknown column 'title'" in checks["manifest"].errors[0]
    assert found.counts == {"missing_file": 1, "out_of_range": 1}
    assert looked_at(job_of(tmp_path, rows, manifest_columns=("title",)))[0].can_start

    misspelt = [{"captoin" if name == "caption" else name: value for name, value in row.items()} for row in rows]
    found, checks = looked_at(job_of(tmp_path, misspelt, manifest_columns=("title",)))
    assert "did you mean 'caption'" in checks["manifest"].errors[0]
    assert found.counts == {"missing_file": 1, "out_of_range": 1}

    without = [{name: value for name, value in row.items() if name != "caption"} for row in rows[:2]]
    (tmp_path / "t.csv").write_text(
        "track_id,source\n" + "".join(f"{r['track_id']},{r['source']}\n" for r in without)
    )
    job = job_of(tmp_path, rows)
    found, checks = looked_at(replace(job, manifest=str(tmp_path / "t.csv")))
    assert "has no column 'caption'" in checks["manifest"].errors[0]
    assert found.counts == {"missing_file": 1}


def test_captions_that_sing_without_words_are_noted(tmp_path: Path, row: dict) -> None:
    sung = row | {"caption": "metal with powerful vocals"}
    rows = [sung, sung | {"track_id": "b", "lyrics": "la la"}, row | {"track_id": "c"}]
    found, _ = looked_at(job_of(tmp_path, rows))
    assert found.ok
    assert found.noted == {"no_words_to_sing": 1}
    (note,) = found.first_noted
    assert (note.track_id, "'vocals'" in note.message) == ("a", True)
    tracks = {track.track_id: track for track in read_manifest(str(tmp_path / "tracks.jsonl"))}
    assert [note.message in tracks[name].notes for name in "abc"] == [True, False, False]


@pytest.mark.parametrize("place", ["run", "run/final/adapter", "run/final/adapter/adapter_model.safetensors"])
def test_an_adapter_is_looked_at_wherever_a_trainer_left_it(tmp_path: Path, row: dict, place: str) -> None:
    folder = tmp_path / "run" / "final" / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    pair = {f"layers.0.self_attn.q_proj.lora_{part}.weight": torch.zeros(*size) for part, size in SIZES}
    save_file(pair, folder / "adapter_model.safetensors")
    found, checks = looked_at(job_of(tmp_path, [row], adapter=str(tmp_path / place)))
    assert found.can_start
    assert "1 layers of " in checks["adapter"].said
    assert "fits the model" in checks["adapter"].said
    shutil.copy(folder / "adapter_model.safetensors", tmp_path / "bare.safetensors")
    job = job_of(tmp_path, [row], adapter=str(tmp_path / "bare.safetensors"))
    found, checks = looked_at(job)
    assert "alpha = rank is taken" in checks["adapter"].said
    assert open_job(job, open_output(job.output)).notes


def test_a_published_model_is_not_fetched_and_the_remedy_is_named(
    tmp_path: Path, row: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(Hub({})) as hub:
        point_to(monkeypatch, hub.endpoint, tmp_path / "hub")
        found, checks = looked_at(job_of(tmp_path, [row], model="turbo", language_model="lm_1.7b", adapter="a/b"))
    assert not hub.asked
    assert not found.can_start
    assert "fetch it with `python -m jobs.fetch model=turbo`" in checks["model"].errors[0]
    assert "verify_only" not in checks["model"].errors[0]
    assert "`python -m jobs.fetch language_model=lm_1.7b`" in checks["language model"].errors[0]
    assert "`python -m jobs.fetch adapter=a/b`" in checks["adapter"].errors[0]
    assert checks["sources"].ok


def test_a_damaged_model_and_a_grid_that_repeats_itself_are_found(tmp_path: Path, row: dict) -> None:
    copy = tmp_path / "checkpoint"
    shutil.copytree(miniature.FOLDER, copy)
    weights = next((copy / "acestep-v15-turbo").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    _, checks = looked_at(job_of(tmp_path, [row], model=str(copy), variant="turbo"))
    assert "safetensors" in checks["model"].errors[0]
    strengths = {"audio_cover_strength": [0.5, 0.51]}
    _, checks = looked_at(job_of(tmp_path, [row], model=miniature.TURBO, grid=strengths))
    assert "identical audio" in checks["settings"].errors[0]


def test_a_manifest_that_breaks_off_is_looked_at_up_to_there(tmp_path: Path, row: dict) -> None:
    job = job_of(tmp_path, [row, row | {"track_id": "b", "source": "gone.wav"}])
    with open(job.manifest, "a") as file:
        file.write("\nnot json")
    found, checks = looked_at(job)
    assert "line 3 is not JSON" in checks["manifest"].errors[0]
    assert found.counts == {"missing_file": 1}
    _, checks = looked_at(RestyleJob("/nowhere.csv", str(tmp_path / "out"), COVER, model=miniature.BASE))
    assert "/nowhere.csv: cannot be read" in checks["manifest"].errors[0]
    assert "sources" not in checks


def test_what_only_the_plan_finds_is_told_once(tmp_path: Path, row: dict) -> None:
    rows = [row, row | {"track_id": "b", "shift": 2.0}, row | {"track_id": "c", "source": "gone.wav"}]
    found, checks = looked_at(job_of(tmp_path, rows, grid={"shift": [1.0, 3.0]}))
    assert found.can_start
    assert checks["plan"].bad == 1
    assert found.counts == {"missing_file": 1, "conflicting_override": 1}


def test_another_models_folder_is_refused(tmp_path: Path, row: dict) -> None:
    job = job_of(tmp_path, [row])
    write_measured(job.output, "beef")
    found, checks = looked_at(job)
    assert "covers made with another model" in checks["plan"].errors[0]
    assert not found.can_start


def write_measured(folder: str, model: str) -> None:
    """100 s of audio with 20 evaluations that took 40 s to denoise and 10 s besides, and 5 MB."""
    measured = {"denoise_s": 40.0, "condition_s": 2.0, "decode_s": 5.0, "write_s": 3.0, "audio_bytes": 5_000_000}
    made = {"status": "ok", "duration_s": 100.0, "evaluations": 20, "dtype": "float32", "model_fingerprint": model}
    writer = ResultWriter(open_store(folder), "results")
    writer.add(as_table([made | measured]))
    writer.flush()


def test_rates_come_from_another_folder_of_the_same_model(tmp_path: Path, row: dict) -> None:
    cover = COVER | {"inference_steps": 10, "guidance_scale": 1.0}
    job = job_of(tmp_path, [row], cover=cover, dtype="float32", model=miniature.BASE)
    write_measured(str(tmp_path / "old"), fingerprint(locate(miniature.FOLDER, "base")))
    found, _ = looked_at(job, rates_from=str(tmp_path / "old"))
    assert found.forecast is not None
    assert found.space is not None
    # 12 s with 10 evaluations at 0.02 s each for a second of audio, and 0.1 s besides.
    assert found.forecast.worker_hours == pytest.approx(12 * (10 * 0.02 + 0.1) / 3600)
    assert found.space.needed == pytest.approx(12 * 50_000)
    assert "measured" not in found.space.bound
    assert "made before" in found.space.bound


def test_short_space_is_a_problem_of_no_track(tmp_path: Path, row: dict) -> None:
    hours = shutil.disk_usage(tmp_path).total / 192_000 / 3600
    found = Estimate(1, 1, 0, hours, None, None, as_table([]))
    space = space_for(found, "wav", open_store(str(tmp_path)))
    assert space.is_short
    assert "an upper bound for wav" in str(space)
    assert not space_for(found, "wav", open_store("s3://bucket/x?region=eu-west-1")).is_short
    assert "cannot be asked" in str(DiskSpace(1.0, "", None))


@pytest.mark.parametrize("audio_format", FORMATS)
def test_no_cover_is_larger_than_the_bound(audio_format: str) -> None:
    rng = torch.Generator().manual_seed(0)
    t = torch.arange(48_000 * 6) / 48_000
    pitches = torch.arange(200, 8000, 137)[:, None]
    dense = torch.sin(2 * torch.pi * pitches * t + pitches).sum(0)
    dense = (dense / dense.abs().max()).expand(2, -1)  # what a variable bit rate spends most on
    noise = torch.rand(2, len(t), generator=rng) * 2 - 1  # what no lossless coder shortens
    for wave in (noise, dense):
        assert len(encode_audio(wave, audio_format)) <= max_bytes(6.0, 1, audio_format)


def test_how_far_is_decoded_decides_what_is_found(tmp_path: Path) -> None:
    wave = torch.from_numpy(tone(30.0).T.copy())
    whole = encode_audio(wave, "flac")
    late = bytearray(whole)
    late[len(whole) * 3 // 4 : len(whole) * 3 // 4 + 4096] = bytes(4096)
    contents = {
        "good.flac": whole,
        "good.mp3": encode_audio(wave, "mp3"),
        "good.m4a": encode_audio(wave, "aac"),
        "damaged_late.flac": bytes(late),
        "cut.flac": whole[: len(whole) // 2],
        "cut.wav": encode_audio(wave, "wav")[:1_000_000],
        "text.mp3": b"not audio, only words " * 50,
        "tiny.flac": whole[:20],
        "playlist.m3u8": b"#EXTM3U\n#EXTINF:10,\ngood.flac\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    soundfile.write(tmp_path / "nan.wav", np.full((48_000, 2), np.nan, np.float32), 48_000, subtype="FLOAT")
    soundfile.write(tmp_path / "no_sound.wav", np.zeros((0, 2), np.float32), 48_000)
    everywhere = {"cut.wav", "text.mp3", "tiny.flac", "playlist.m3u8", "nan.wav", "no_sound.wav"}
    found = {
        full: {path.name for path in tmp_path.iterdir() if check_decoding(str(path), full, 600.0).defect}
        for full in (False, True)
    }
    assert found[False] == everywhere
    assert found[True] == everywhere | {"cut.flac", "damaged_late.flac"}
    kind, said = check_decoding(str(tmp_path / "text.mp3"), False, 600.0).defect or ("", "")
    assert (kind, "cannot be decoded as audio" in said) == ("unreadable_audio", True)
    for full in (False, True):
        assert (check_decoding(str(tmp_path / "good.mp3"), full, 10.0).defect or ("",))[0] == "too_long"


def test_what_is_worth_knowing_of_sources_is_told_and_stops_nothing(tmp_path: Path) -> None:
    late = np.zeros((48_000 * 30, 2), np.float32)
    late[48_000 * 20 :] = tone(10.0)
    soundfile.write(tmp_path / "late.flac", late, 48_000)
    soundfile.write(tmp_path / "silent.flac", 0 * late, 48_000)
    (tmp_path / "two.mka").write_bytes(with_streams([tone(8.0), tone(8.0)], 1))
    rows = [{"track_id": n, "source": n, "caption": "x"} for n in ("late.flac", "silent.flac", "two.mka")]
    rows[0]["reference_audio"] = "silent.flac"
    tracks = [parse_track(values, str(tmp_path / "m.csv")) for values in rows]
    wanted = {"late.flac": "silent_reference", "silent.flac": "silent_source", "two.mka": "streams_left_out"}
    for how in ("start", "full"):
        problems: list[ReportedProblem] = []
        notes: list[ReportedProblem] = []
        counted = check_sources(tracks, probe_all, how, 600.0, problems.append, notes.append, lambda done: None)
        assert (counted.bad, problems) == (0, [])
        assert {note.track_id: note.kind for note in notes} == wanted


def test_a_reference_is_a_source_too_and_shared_files_are_decoded_once(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(5.0), 48_000)
    (tmp_path / "text.wav").write_text("words " * 100)
    rows = [{"track_id": f"t{k}", "source": "a.wav", "caption": "x"} for k in range(5000)]
    rows[3]["reference_audio"] = "gone.wav"
    rows[4999]["reference_audio"] = "text.wav"
    tracks = [parse_track(values, str(tmp_path / "m.csv")) for values in rows]
    problems: list[ReportedProblem] = []
    counted = check_sources(tracks, probe_all, "full", 600.0, problems.append, print, lambda done: None)
    assert (counted.tracks, counted.bad, counted.undecodable, counted.unknown) == (5000, 2, 1, 0)
    assert counted.seconds == pytest.approx(4998 * 5.0)
    assert [(p.track_id, p.kind) for p in problems] == [("t3", "missing_file"), ("t4999", "unreadable_audio")]
    alone = check_sources(tracks, probe_all, "none", 600.0, problems.append, print, lambda done: None)
    assert alone.bad == 1
    long = check_sources(tracks[:1], probe_all, "none", 4.0, problems.append, print, lambda done: None)
    assert (long.bad, long.undecodable, problems[-1].kind) == (1, 0, "too_long")
    assert probe(str(tmp_path / "a.wav")).duration_s == 5.0


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_report_holds_every_problem_and_memory_the_first(tmp_path: Path, ending: str) -> None:
    path = str(tmp_path / f"bad.{ending}")
    with ProblemLog(path) as log:
        log.note("model", "it is, alas, 'not' here\n")
        for number in range(20_000):
            log.add(ReportedProblem(f"t{number}", f"{number}.wav", "missing_file", "no such file"))
    table = (
        pq.read_table(path)
        if ending == "parquet"
        else pyarrow.csv.read_csv(path, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True))
    )
    assert table.column_names == ["track_id", "source", "kind", "message"]
    assert table.num_rows == 20_001
    assert table["message"][0].as_py() == "it is, alas, 'not' here\n"
    assert table["track_id"][20_000].as_py() == "t19999"
    assert (len(log.first), log.counts) == (KEPT, {"missing_file": 20_000})


def test_a_spec_that_cannot_be_followed_is_refused(tmp_path: Path, row: dict) -> None:
    job = job_of(tmp_path, [row])
    for how, message in (
        ({"decode": "half"}, "validate.decode 'half' is unknown; use one of start, full, none"),
        ({"report": "bad.xlsx"}, r"end it in \.csv or \.parquet"),
        ({"report": f"{tmp_path}/no/bad.csv"}, "cannot be written"),
    ):
        with pytest.raises(RequestError, match=message):
            looked_at(job, **how)
    assert not (tmp_path / "out").exists()
