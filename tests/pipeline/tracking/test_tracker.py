"""Runs in a real MLflow database, and a server that is not there."""

import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from acestep.errors import RequestError
from pipeline.catalogue.grid import Setting, make_settings
from pipeline.results.progress import Progress
from pipeline.results.writer import as_table
from pipeline.storage.store import Store, open_store
from pipeline.tracking.runs import measures
from pipeline.tracking.spec import TrackingSpec
from pipeline.tracking.tracker import Tracker
from tests.mlflow_database import create_database

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

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


@pytest.fixture
def client(store: Store, monkeypatch: pytest.MonkeyPatch) -> "MlflowClient":
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    create_database(Path(store.root) / "mlflow.db")
    return MlflowClient(f"sqlite:///{store.root}/mlflow.db")


def track(
    store: Store, spec: TrackingSpec, table: list[dict], settings: Sequence[Setting] = SETTINGS
) -> tuple[dict[str, str], list[str]]:
    warnings: list[str] = []
    tracker = Tracker(spec, "songs", store, store.root)
    tracker.begin({"model": "demo", "shift": 3.0}, settings, warnings.append)
    links = tracker.finish(as_table(table), 1.0, warnings.append)
    return links, warnings


def begun(store: Store, settings: Sequence[Setting] = SETTINGS, **seconds: float) -> Tracker:
    """A tracker whose runs are open."""
    tracker = Tracker(TrackingSpec(), "songs", store, store.root, **seconds)
    tracker.begin({"model": "demo"}, settings, pytest.fail)
    wait_for(lambda: tracker.runs is not None)
    return tracker


def wait_for(happened: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs_of(client: "MlflowClient") -> dict[str, "Run"]:
    experiment = client.get_experiment_by_name("songs")
    runs = client.search_runs([experiment.experiment_id])
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {run.info.run_name: run for run in runs}


def test_one_job_run_and_one_flat_run_per_setting(store: Store, client: "MlflowClient") -> None:
    failed = rows()[0] | {"item_id": "x", "status": "failed", "error_kind": "out_of_memory", "duration_s": None}
    links, warnings = track(store, TrackingSpec(), [*rows(), failed])
    assert not warnings
    experiment = client.get_experiment_by_name("songs")
    assert experiment.artifact_location.startswith(Path(store.root).as_uri())
    found = runs_of(client)
    assert set(found) == {"songs", "s0.30", "s0.60"}
    assert all(run.info.status == "FINISHED" for run in found.values())
    assert found["s0.30"].data.params == {"audio_cover_strength": "0.3"}
    assert found["songs"].data.params == {"model": "demo", "shift": "3.0"}
    metrics = found["s0.30"].data.metrics
    assert (metrics["covers_made"], metrics["covers_failed"], metrics["failed/out_of_memory"]) == (2, 1, 1)
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


def test_a_later_launch_brings_the_same_runs_up_to_date(store: Store, client: "MlflowClient") -> None:
    bad = {"item_id": "x", "status": "failed", "error_kind": "out_of_memory", "duration_s": None}
    rejected = bad | {"status": "rejected", "error_kind": "too_long", "setting_id": None, "setting_name": None}
    track(store, TrackingSpec(), [*rows(1), rows()[1] | bad, rows()[0] | rejected])
    before = runs_of(client)
    metrics = before["songs"].data.metrics
    assert (metrics["covers_made"], metrics["failed/out_of_memory"], metrics["rejected/too_long"]) == (2, 1, 1)
    assert "job_seconds" not in metrics  # that launch made nothing itself

    for _ in range(2):
        links, warnings = track(store, TrackingSpec(), rows())
        assert not warnings
        after = runs_of(client)
        assert {name: run.info.run_id for name, run in after.items()} == {
            name: run.info.run_id for name, run in before.items()
        }
        assert {run.info.status for run in after.values()} == {"FINISHED"}
        metrics = after["songs"].data.metrics
        assert (metrics["covers_made"], metrics["covers_failed"], metrics["tracks_rejected"]) == (4, 0, 0)
        assert (metrics["failed/out_of_memory"], metrics["rejected/too_long"]) == (0, 0)
        assert after["s0.30"].data.metrics["failed/out_of_memory"] == 0
        assert links["compare"]


def test_runs_of_a_launch_that_was_killed(store: Store, client: "MlflowClient") -> None:
    begun(store)  # and never heard of again, as after kill -9
    before = runs_of(client)
    assert {run.info.status for run in before.values()} == {"RUNNING"}
    _, warnings = track(store, TrackingSpec(), rows(), SETTINGS[:1])
    assert not warnings
    after = runs_of(client)
    assert {name: run.info.run_id for name, run in after.items()} == {
        name: run.info.run_id for name, run in before.items()
    }
    assert after["songs"].info.status == after["s0.30"].info.status == "FINISHED"
    assert after["s0.60"].info.status == "KILLED"  # not a setting of this launch, and nobody runs it

    stopped = begun(store)
    stopped.abandon()
    assert {run.info.status for run in runs_of(client).values()} == {"KILLED"}
    track(store, TrackingSpec(), rows())
    assert {run.info.status for run in runs_of(client).values()} == {"FINISHED"}


def progress_of(count: int) -> Progress:
    """So many covers, one of them failed, within a minute."""
    moments = iter([0.0] + [60.0] * 100)
    progress = Progress(items=8, tracks=8, work_s=80.0, now=lambda: next(moments))
    done = [row | {"source_duration_s": 10.0} for row in rows(4)[:count]]
    done[0] |= {"denoise_s": 60.0}
    done[-1] |= {"status": "failed", "error_kind": "out_of_memory", "duration_s": None}
    progress.add(as_table(done))
    return progress


def test_progress_is_a_curve_that_goes_on_in_the_next_launch(store: Store, client: "MlflowClient") -> None:
    for launch, count in enumerate((2, 4)):
        tracker = begun(store, first_s=0.0, every_s=0.0)
        job = runs_of(client)["songs"].info.run_id
        time.sleep(1.1)  # a step is a second
        tracker.progressed(progress_of(count), pytest.fail)
        points = 2 * launch + 1
        wait_for(lambda j=job, n=points: len(client.get_metric_history(j, "progress/covers_done")) == n)
        metrics = client.get_run(job).data.metrics
        assert metrics["progress/covers_done"] == count
        assert metrics["progress/covers_failed"] == 1
        assert metrics["progress/tracks_per_minute"] == count
        assert metrics["progress/x_real_time"] == pytest.approx((count - 1) * 10 / 60)
        assert metrics["progress/hours_to_go"] == pytest.approx((8 - count) / count / 60)
        time.sleep(1.1)
        tracker.finish(as_table(rows()), 70.0, pytest.fail, progress_of(4))
        history = client.get_metric_history(job, "progress/covers_done")
        steps = [metric.step for metric in history]
        assert steps == sorted(set(steps))
        assert all(abs(metric.timestamp / 1000 - time.time()) < 60 for metric in history)
        metrics = client.get_run(job).data.metrics
        assert (metrics["progress/covers_done"], metrics["job_seconds"]) == (4, 70)
        assert metrics["job_tracks_per_minute"] == pytest.approx(4)
    assert len(steps) == 4


def test_progress_is_logged_now_and_then(store: Store) -> None:
    tracker = Tracker(TrackingSpec(), "songs", store, store.root, first_s=0.2, every_s=0.5)
    offered: list[float] = []
    tracker.background.offer = lambda errand: offered.append(time.monotonic())  # type: ignore[method-assign]
    progress = progress_of(2)
    tracker.begin({}, SETTINGS, pytest.fail)
    started = time.monotonic()
    while time.monotonic() < started + 1.5:
        tracker.progressed(progress, pytest.fail)
        time.sleep(0.01)
    waits = [moment - started for moment in offered[1:]]  # the first one opens the runs
    assert waits == pytest.approx([0.2, 0.7, 1.2], abs=0.1)


def test_a_server_that_is_down_costs_warnings(store: Store) -> None:
    links, warnings = track(store, TrackingSpec(uri="http://127.0.0.1:9"), rows())
    assert links == {}
    assert "tracking is incomplete: http://127.0.0.1:9 does not take runs" in warnings[-1]
    assert "once it does, the same command brings the tracking up to date" in warnings[-1]


def test_a_server_that_comes_back_during_the_job_is_brought_up_to_date(store: Store) -> None:
    from mlflow import MlflowClient

    place = Path(store.root) / "server"
    place.write_text("in the way of the database")
    uri = f"sqlite:///{place}/mlflow.db"
    warnings: list[str] = []
    tracker = Tracker(TrackingSpec(uri=uri), "songs", store, store.root, first_s=0.0, every_s=0.0)
    tracker.begin({"model": "demo"}, SETTINGS, warnings.append)
    wait_for(lambda: warnings)
    assert f"{place} is no folder that can be written to" in warnings[0]
    for _ in range(3):
        tracker.progressed(progress_of(2), warnings.append)
        time.sleep(0.3)
    assert len(warnings) == 1  # once is enough
    place.unlink()
    place.mkdir()
    tracker.progressed(progress_of(2), warnings.append)
    wait_for(lambda: len(warnings) > 1)
    assert "takes runs again" in warnings[1]
    client = MlflowClient(uri)
    assert runs_of(client)["songs"].data.metrics["progress/covers_done"] == 2
    assert tracker.finish(as_table(rows()), 1.0, warnings.append)
    assert {run.info.status for run in runs_of(client).values()} == {"FINISHED"}
    assert len(warnings) == 2


def test_a_server_that_hangs_does_not_hold_the_job_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tracking.preflight.KNOCK_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # takes connections and never answers
        uri = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        warnings: list[str] = []
        tracker = Tracker(TrackingSpec(uri=uri), "songs", store, store.root, first_s=0.0, every_s=0.0)
        tracker.begin({}, SETTINGS, warnings.append)  # once for the import of MLflow
        wait_for(lambda: tracker.background.waiting is None)
        started = time.monotonic()
        tracker.begin({}, SETTINGS, warnings.append)
        for count in (2, 3, 4):
            tracker.progressed(progress_of(count), warnings.append)
        assert time.monotonic() - started < 0.3
        assert tracker.finish(as_table(rows()), 1.0, warnings.append) == {}
        assert time.monotonic() - started < 5
    assert len(warnings) == 2
    assert "behind" in warnings[0]
    assert "does not take runs (no answer within 1 s: " in warnings[0]
    assert "incomplete" in warnings[1]


def test_a_remote_folder_needs_a_named_server(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import fs

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    remote = Store(fs.S3FileSystem(region="us-east-1", anonymous=True), "bucket/out")
    with pytest.raises(RequestError, match=r"set tracking\.uri or MLFLOW_TRACKING_URI"):
        Tracker(TrackingSpec(), "songs", remote, "s3://bucket/out")


def test_nothing_done_is_no_rate() -> None:
    assert "time/rtf" not in measures(as_table([]))
