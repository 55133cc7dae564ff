"""``python -m jobs.validate`` as a user meets it: the words of jobs.restyle, every problem, and the status."""

import csv
import json
import sys
from pathlib import Path

import pytest
import soundfile
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from acestep.checkpoints.checkpoint import fingerprint
from acestep.checkpoints.folders import locate
from jobs import validate
from jobs.schema import register
from pipeline.storage.store import open_store
from tests import miniature
from tests.conftest import tone
from tests.job_command import run_job
from tests.jobs.test_restyle import catalogue  # noqa: F401  (every container, every kind of bad track)
from tests.pipeline.workflows.test_validate import write_measured


def test_a_bad_catalogue_is_told_track_by_track(catalogue: Path, tmp_path: Path) -> None:  # noqa: F811
    output, report = tmp_path / "out", tmp_path / "bad.csv"
    manifest = f"manifest={catalogue}/tracks.jsonl"
    done = run_job(
        "validate",
        manifest,
        f"model={miniature.BASE}",
        f"output={output}",
        "validate.decode=full",
        f"validate.report={report}",
    )
    assert done.returncode == 3, done.stderr
    assert {path.name for path in output.iterdir()} == {"probes"}
    expected = {
        "missing": "missing_file",
        "zero": "unreadable_audio",
        "text": "unreadable_audio",
        "truncated": "unreadable_audio",
        "long": "too_long",
        "long_unsaid": "too_long",
        "two": "streams_left_out",
        "good_wav": "duplicate_track_id",
        "../evil": "unsafe_track_id",
        "silent_caption": "empty_caption",
        "too_strong": "out_of_range",
    }
    with report.open() as file:
        assert {row["track_id"]: row["kind"] for row in csv.DictReader(file)} == expected
    for track, kind in expected.items():
        assert f"  {track:24} {kind:20} " in done.stdout
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line[:1].strip())
    assert lines["model"].startswith("ok ")
    assert lines["sources"].startswith("problem  6 of 12 tracks can be run, 0.01 h, decoded in full")
    assert "3 unreadable_audio" in lines["bad"]
    assert lines["covers"].startswith("9 of 9 tracks to make")
    assert lines["time"].startswith("not known: no cover of this model")
    assert "an upper bound for flac" in lines["disk"]


def test_what_cannot_start_is_told_in_full(catalogue: Path, tmp_path: Path) -> None:  # noqa: F811
    arguments = ("output=/dev/null/x", "model=nosuch", "cover.audio_cover_strength=1.5", "max_attempts=1")
    done = run_job("validate", f"manifest={catalogue}/tracks.jsonl", *arguments)
    assert done.returncode == 2
    for message in (
        "max_attempts 1",
        "model 'nosuch' is no folder",
        "output '/dev/null/x' cannot be written",
        "audio_cover_strength 1.5 is out of range",
        "missing.wav: no such file",
        "there is no plan yet",
    ):
        assert message in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_sound_catalogue_ends_well_with_its_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "a.wav", tone(36.0), 48_000)
    rows = [{"track_id": f"t{k}", "source": "a.wav", "caption": "jazz"} for k in range(100)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_measured(str(tmp_path / "old"), fingerprint(locate(miniature.FOLDER, "base")))
    GlobalHydra.instance().clear()
    words = (f"manifest={tmp_path}/m.jsonl", f"output={tmp_path}/out", f"model={miniature.BASE}", "dtype=float32")
    rates = (f"validate.rates_from={tmp_path}/old", "validate.workers=4")
    covers = ("cover.inference_steps=10", "cover.guidance_scale=1")
    monkeypatch.setattr(sys, "argv", ["validate", *words, *rates, *covers])
    with pytest.raises(SystemExit) as left:
        validate.main()
    said = capsys.readouterr().out
    assert left.value.code == 0, said
    assert "covers         100 of 100 tracks to make, 0 items are done\n" in said
    assert "audio          1.00 h\n" in said
    # 3600 s with 10 evaluations at 0.02 s each for a second of audio, and 0.1 s besides
    assert "time           0.30 worker hours by measured rates, 0.07 h with 4 workers\n" in said
    assert "disk           180.0 MB needed (at the rate of covers made before)" in said
    assert not open_store(f"{tmp_path}/out").files("results", ".parquet")


def test_one_edits_the_verb_only() -> None:
    register()
    GlobalHydra.instance().clear()
    words = ["manifest=m.csv", "output=o", f"model={miniature.BASE}", "preset=pop_to_jazz", "grid.seed=[1,2]"]
    with initialize_config_module("conf", version_base="1.3"):
        restyle, look = (OmegaConf.to_container(compose(job, words)) for job in ("restyle", "validate"))
    assert look.pop("validate") == {"decode": "start", "rates_from": None, "workers": None, "report": None}
    assert look == restyle


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("validate.decode=half", "validate.decode 'half' is unknown; use one of start, full, none"),
        ("validate.workers=0", "validate.workers 0 may not be below one"),
        ("validate.report=bad.xlsx", "end it in .csv or .parquet"),
    ],
)
def test_its_own_keys_are_checked(
    argument: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    GlobalHydra.instance().clear()
    monkeypatch.setattr(
        sys, "argv", ["validate", "manifest=m.csv", f"output={tmp_path}/out", f"model={miniature.BASE}", argument]
    )
    with pytest.raises(SystemExit) as left:
        validate.main()
    assert left.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
