"""Runs in a real MLflow database, and a server that is not there."""

from pathlib import Path

import pytest

from acestep.errors import RequestError
from pipeline.results import as_table
from pipeline.settings import make_settings
from pipeline.storage import Store, open_store
from pipeline.tracking import Tracker, TrackingSpec, measures

SETTINGS = make_settings({"seed": 1}, {"audio_cover_strength": [0.3, 0.6]})


def rows(count: int = 2) -> list[dict]:
    return [
        {
            "item_id": f"{setting.name} {k}",
            "track_id": f"t{k}",
            "source": f"t{k}.wav",
            "caption": "jazz",
            "setting_id": setting.setting_id,
            "setting_name": setting.name,
            "status": "ok",
            "duration_s": 10.0,
            "condition_s": 1.0,
            "denoise_s": 2.0,
            "decode_s": 1.0,
            "write_s": 1.0,
            "audio_path": f"audio/t{k}/{setting.name}.flac",
        }
        for setting in SETTINGS
        for k in range(count)
    ]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "out"))
    for row in rows():
        store.write(row["audio_path"], b"fLaC")
    store.write("job.json", b'{"job": {"manifest": "tracks.csv"}}')
    return store


def track(store: Store, spec: TrackingSpec, table: list[dict]) -> tuple[dict[str, str], list[str]]:
    warnings: list[str] = []
    tracker = Tracker(spec, "songs", store, store.root)
    tracker.begin({"model": "demo", "shift": 3.0}, SETTINGS, warnings.append)
    links = tracker.finish(as_table(table), 1.0, warnings.append)
    return links, warnings


def test_one_job_run_and_one_flat_run_per_setting(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    failed = rows()[0] | {"item_id": "x", "status": "failed", "duration_s": None}
    links, warnings = track(store, TrackingSpec(), [*rows(), failed])
    assert not warnings
    client = MlflowClient(f"sqlite:///{store.root}/mlflow.db")
    experiment = client.get_experiment_by_name("songs")
    assert experiment.artifact_location.startswith(Path(store.root).as_uri())
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"songs", "s0.30", "s0.60"}
    assert all(run.info.status == "FINISHED" for run in found.values())
    assert found["s0.30"].data.params == {"audio_cover_strength": "0.3"}
    assert found["songs"].data.params == {"model": "demo", "shift": "3.0"}
    metrics = found["s0.30"].data.metrics
    assert (metrics["covers_ok"], metrics["covers_failed"]) == (2, 1)
    assert metrics["audio_seconds"] == 20
    assert metrics["time/rtf"] == 0.5
    samples = client.list_artifacts(found["s0.60"].info.run_id, "samples")
    assert [artifact.path for artifact in samples] == ["samples/t0.flac", "samples/t1.flac"]
    artifacts = {artifact.path for artifact in client.list_artifacts(found["songs"].info.run_id)}
    assert artifacts == {"job.json", "results.json", "results.parquet"}
    (dataset,) = found["songs"].inputs.dataset_inputs
    assert dataset.dataset.name == "songs"
    for run in ("s0.30", "s0.60"):
        assert found[run].info.run_id in links["compare"]
    assert links["ui"].endswith(f"sqlite:///{store.root}/mlflow.db")

    track(store, TrackingSpec(), rows(1))
    again = client.search_runs([experiment.experiment_id])
    assert {run.info.run_id for run in again} == {run.info.run_id for run in found.values()}


def test_a_server_that_is_down_costs_a_warning(store: Store) -> None:
    links, warnings = track(store, TrackingSpec(uri="http://127.0.0.1:9"), rows())
    assert links == {}
    assert len(warnings) == 1
    assert "http://127.0.0.1:9 does not take runs" in warnings[0]


def test_a_remote_folder_needs_a_named_server(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import fs

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    remote = Store(fs.S3FileSystem(region="us-east-1", anonymous=True), "bucket/out")
    with pytest.raises(RequestError, match=r"set tracking\.uri or MLFLOW_TRACKING_URI"):
        Tracker(TrackingSpec(), "songs", remote, "s3://bucket/out")


def test_nothing_done_is_no_rate() -> None:
    assert "time/rtf" not in measures(as_table([]))
