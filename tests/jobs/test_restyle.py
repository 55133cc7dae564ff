"""The command line as a user meets it: exit status, messages, and nothing lost for the good tracks."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from hydra import compose, initialize_config_module

from acestep.audio.files import encode_audio, load_audio
from acestep.sampling.setting import CoverSetting
from jobs.restyle import job_of
from jobs.schema import register
from pipeline.cluster.spec import ClusterSpec
from pipeline.tracking.spec import TrackingSpec
from pipeline.workflows.specs import RestyleJob
from tests.audio_files import with_streams
from tests.conftest import tone
from tests.job_command import run_job
from tests.miniature import BASE

ROOT = Path(__file__).parents[2]


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The job in a process of its own, with a cluster of its own."""
    command = [sys.executable, "-m", "jobs.restyle", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with every container we read and every kind of bad track."""
    folder = tmp_path_factory.mktemp("bad")
    wave = torch.from_numpy(tone(5.5).T.copy())
    names = {"wav": "wav", "flac": "flac", "mp3": "mp3", "ogg": "opus", "m4a": "aac"}
    for extension, audio_format in names.items():
        (folder / f"good.{extension}").write_bytes(encode_audio(wave, audio_format))
    (folder / "zero.wav").write_bytes(b"")
    (folder / "text.wav").write_text("not audio, only words " * 50)
    flac = (folder / "good.flac").read_bytes()
    (folder / "truncated.flac").write_bytes(flac[: len(flac) // 2])
    soundfile.write(folder / "long.wav", np.zeros(8000 * 601, np.float32), 8000)
    soundfile.write(folder / "long_unsaid.flac", np.zeros(8000 * 601, np.float32), 8000)
    unsaid = bytearray((folder / "long_unsaid.flac").read_bytes())
    unsaid[21:26] = bytes([unsaid[21] & 0xF0, 0, 0, 0, 0])  # the number of samples
    (folder / "long_unsaid.flac").write_bytes(unsaid)
    (folder / "two.mka").write_bytes(with_streams([0 * tone(5.5), tone(5.5)], 1))
    rows = [{"track_id": f"good_{e}", "source": f"good.{e}", "caption": "jazz"} for e in names]
    rows += [{"track_id": n, "source": f"{n}.wav", "caption": "jazz"} for n in ("missing", "zero", "text", "long")]
    rows += [
        {"track_id": "truncated", "source": "truncated.flac", "caption": "jazz"},
        {"track_id": "good_wav", "source": "good.flac", "caption": "again"},
        {"track_id": "../evil", "source": "good.wav", "caption": "jazz"},
        {"track_id": "silent_caption", "source": "good.wav", "caption": ""},
        {"track_id": "too_strong", "source": "good.wav", "caption": "jazz", "audio_cover_strength": 1.5},
        {"track_id": "long_unsaid", "source": "long_unsaid.flac", "caption": "jazz"},
        {"track_id": "two", "source": "two.mka", "caption": "jazz"},
    ]
    (folder / "tracks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.mark.usefixtures("local_pool")
def test_bad_tracks_become_rows_and_good_ones_are_restyled(catalogue: Path) -> None:
    output = catalogue / "out"
    arguments = (
        f"manifest={catalogue}/tracks.jsonl",
        f"output={output}",
        f"model={BASE}",
        "cover.inference_steps=2",
    )
    done = launch(*arguments)
    assert done.returncode == 3, done.stderr
    assert re.search(
        r"start-up [\d.]+ s \(imports [\d.]+.*\); then [\d.]+ % of the time in the model", done.stdout
    )
    results = {row["track_id"]: row for row in pq.read_table(output / "results").to_pylist()}
    rejected = {row["track_id"]: row for row in pq.read_table(output / "rejected").to_pylist()}
    good = {name: row for name, row in results.items() if row["status"] == "ok"}
    assert set(good) == {"good_wav", "good_flac", "good_mp3", "good_ogg", "good_m4a", "two"}
    assert {name for name, row in good.items() if row["source_notes"]} == {"two"}
    assert good["two"]["source_notes"] == ["streams_left_out"]
    assert "streams_left_out 1" in done.stdout
    for row in good.values():
        wave = load_audio(output / row["audio_path"])
        assert wave.shape[1] == row["frames"]
        assert wave.abs().max().item() == pytest.approx(10 ** (-1 / 20), abs=1e-3)
        assert (row["effective_inference_steps"], row["cover_steps"], row["seed"]) == (2, 1, 42)
    failed = {name: row for name, row in results.items() if row["status"] == "failed"}
    said = {name: (row["error_kind"], row["error_message"]) for name, row in (failed | rejected).items()}
    expected = {
        "missing": ("missing_file", r"missing\.wav: no such file"),
        "zero": ("unreadable_audio", r"zero\.wav: empty file \(0 bytes\)"),
        "text": ("unreadable_audio", r"text\.wav: cannot be decoded as audio \(libsndfile: .*; FFmpeg: .*\)"),
        "truncated": ("unreadable_audio", r"truncated\.flac: damaged or truncated"),
        "long": ("too_long", r"601\.0 s is longer than 600 s; cut the track"),
        "long_unsaid": ("too_long", "it is longer than 600 s; cut the track"),
        "good_wav": ("duplicate_track_id", "row 11: track_id 'good_wav' is taken by row 1"),
        "../evil": ("unsafe_track_id", "row 12: track_id '../evil' cannot name a folder"),
        "silent_caption": ("empty_caption", "row 13: caption is empty"),
        "too_strong": ("out_of_range", "row 14: audio_cover_strength 1.5 is out of range"),
    }
    assert set(said) == set(expected)
    assert {"long", "long_unsaid"} < set(rejected)
    for name, (kind, message) in expected.items():
        assert said[name][0] == kind
        assert re.search(message, said[name][1])
        assert kind in done.stdout
    assert not (catalogue / "evil").exists()
    assert not list(output.glob("attempts/*"))

    again = run_job("restyle", *arguments)
    assert again.returncode == 3
    assert "0 covers of 0 tracks (16 are done already)" in again.stdout
    assert pq.read_table(output / "results").num_rows == 10
    assert pq.read_table(output / "rejected").num_rows == 6


def write_manifest(folder: Path, rows: list[dict]) -> str:
    path = folder / "tracks.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return f"manifest={path}"


@pytest.mark.slow
def test_a_repaired_catalogue_ends_well_and_keeps_what_was_done(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(5.2), 48_000)
    rows = [
        {"track_id": "a", "source": "a.wav", "caption": "jazz"},
        {"track_id": "b", "source": "b.wav", "caption": "jazz"},
        {"track_id": "c", "source": "a.wav", "caption": ""},
    ]
    output, quick = f"output={tmp_path}/out", (f"model={BASE}", "cover.inference_steps=1")
    assert launch(write_manifest(tmp_path, rows), output, *quick).returncode == 3
    soundfile.write(tmp_path / "b.wav", tone(5.4), 48_000)
    rows[2]["caption"] = "metal"
    done = launch(write_manifest(tmp_path, rows), output, *quick, "grid.guidance_scale=[3,9]")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(1 are done already)" in done.stdout
    results = pq.read_table(tmp_path / "out" / "results").to_pylist()
    assert sorted(r["track_id"] for r in results if r["status"] == "ok") == ["a", "a", "b", "b", "c", "c"]


@pytest.mark.usefixtures("local_pool")
@pytest.mark.parametrize(
    ("signals", "status", "said"),
    [
        (
            [signal.SIGINT],
            130,
            "stopped: [1-9] of 8 covers are done; what is finished is kept, and the same command",
        ),
        pytest.param([signal.SIGTERM], 143, "stopped: [1-9] of 8 covers are done", marks=pytest.mark.slow),
        pytest.param([signal.SIGINT] * 2, 130, "interrupted: what is finished is kept", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_job_keeps_what_is_done_and_blames_nobody(
    tmp_path: Path, signals: list[signal.Signals], status: int, said: str
) -> None:
    soundfile.write(tmp_path / "a.wav", tone(6.0), 48_000)
    rows = [{"track_id": f"t{k}", "source": "a.wav", "caption": f"style {k}"} for k in range(8)]
    manifest, output = write_manifest(tmp_path, rows), tmp_path / "out"
    settings = (
        f"output={output}",
        f"model={BASE}",
        "max_attempts=2",
        "tracking.enabled=false",
        "metrics=off",
    )
    command = [sys.executable, "-m", "jobs.restyle", manifest, *settings]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **streams) as job:
        deadline = time.monotonic() + 120
        while not list(output.glob("audio/*/*.flac")) and time.monotonic() < deadline:
            time.sleep(0.1)
        for number in signals:
            # A terminal's Ctrl-C goes to the whole group.
            (os.killpg if number == signal.SIGINT else os.kill)(job.pid, number)
            time.sleep(0.3)
        _, errors = job.communicate(timeout=60)
    assert job.returncode == status, errors
    assert re.search(said, errors)
    made = {file.name for file in output.glob("audio/*/*.flac")}
    assert made
    assert len(made) < 8
    if len(signals) == 1:  # what was made has its row; stopped at once, a cover may lack it and is made again
        assert pq.read_table(output / "results").num_rows == len(made)
    again = run_job("restyle", manifest, *settings)
    assert again.returncode == 0, again.stdout + again.stderr
    results = pq.read_table(output / "results").to_pylist()
    assert len({row["item_id"] for row in results}) == len(results) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["manifest={m}", "output={o}", "cover.audio_cover_strength=1.5"],
            "audio_cover_strength 1.5 is out of range",
        ),
        (["manifest={m}", "output={o}", "cover.guidence_scale=3"], "Key 'guidence_scale' not in 'CoverConfig'"),
        (["manifest={m}", "output={o}", "cover.seed=x"], "could not be converted to Integer"),
        (["manifest={m}", "output={o}", "model=nosuch"], "model 'nosuch' is no folder and not one of demo"),
        (["manifest=/nowhere.csv", "output={o}"], "/nowhere.csv: cannot be read"),
        (["manifest={m}"], "output not given; add output=..."),
        (["manifest={m}", "output={o}", "cluster.address=127.0.0.1:9"], "does not answer"),
        (["manifest={m}", "output=/dev/null/x"], "output '/dev/null/x' cannot be written"),
    ],
)
def test_what_cannot_start_says_why(catalogue: Path, arguments: list[str], message: str) -> None:
    places = {"m": catalogue / "tracks.jsonl", "o": catalogue / "never"}
    words = [f"model={BASE}", *(argument.format(**places) for argument in arguments)]
    in_a_cluster = any("address" in word for word in words)  # this process may have one already
    done = launch(*words) if in_a_cluster else run_job("restyle", *words)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dry_run_says_what_would_be_done_and_makes_nothing(catalogue: Path, tmp_path: Path) -> None:
    output = tmp_path / "dry"
    words = (f"manifest={catalogue}/tracks.jsonl", f"output={output}", f"model={BASE}", "dry_run=true")
    done = run_job("restyle", *words)
    assert done.returncode == 3, done.stderr
    # More than can be made: what is wrong inside of a file only decoding finds.
    assert "to do    9 covers of 9 tracks, 0.01 h of audio" in done.stdout
    assert "missing_file" in done.stdout
    assert "unsafe_track_id" in done.stdout
    assert {path.name for path in output.iterdir()} == {"probes"}


def test_configuration_composes_into_a_job() -> None:
    register()
    with initialize_config_module("conf", version_base="1.3"):
        required = ["manifest=m.csv", "output=o", f"model={BASE}"]
        config = compose("restyle", [*required, "grid.guidance_scale=[7,9]", "grid.seed=3"])
    job = job_of(config)
    assert job.grid["guidance_scale"] == [7, 9]
    assert job.grid["seed"] == 3
    assert job.cover["audio_cover_strength"] == 0.5
    assert job.name == "m"
    assert job.cluster == ClusterSpec()
    assert job.tracking == TrackingSpec()
    assert job.cover == asdict(CoverSetting()) | {"seed": 42}
    assert job == RestyleJob("m.csv", "o", job.cover, job.grid, stages=[], model=BASE)
    assert set(job.grid) == set(job.cover)
