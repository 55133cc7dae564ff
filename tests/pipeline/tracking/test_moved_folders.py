"""Runs and artifacts of a folder that was renamed, copied or moved."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.cluster.pool import Pool
from pipeline.planning.items import ModelFacts
from pipeline.results.job_file_reader import read_record, tracking_key
from pipeline.storage.store import open_store
from pipeline.tracking.moved_artifacts import relocate
from pipeline.tracking.spec import TrackingSpec
from pipeline.workflows.job_file_writer import write_job_file
from pipeline.workflows.specs import RestyleJob
from tests.mlflow_database import create_database
from tests.pipeline.tracking.folders import folder_with_covers, looked
from tests.pipeline.tracking.test_tracker import rows, track


def runs_in(folder: Path) -> dict[str, str]:
    """Run ids by name, each proven to have its artifacts in the folder."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("songs")
    assert experiment.artifact_location == (folder / "mlartifacts").as_uri()
    found = {}
    for run in client.search_runs([experiment.experiment_id]):
        assert run.info.artifact_uri.startswith((folder / "mlartifacts").as_uri() + "/")
        assert client.list_artifacts(run.info.run_id)
        assert run.data.tags["restyle.output"] == str(folder)
        assert run.info.run_name not in found
        found[run.info.run_name] = run.info.run_id
    return found


@pytest.mark.parametrize("of_an_earlier_version", [True, False])
def test_a_folder_that_was_renamed_keeps_its_runs(of_an_earlier_version: bool, tmp_path: Path) -> None:
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

    store = folder_with_covers(tmp_path / "old")
    if not of_an_earlier_version:
        store.write("job.json", record(tmp_path / "old"))
    track(store, TrackingSpec(), rows())
    before = runs_in(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    _artifact_repos_cache.clear()  # as in another process
    moved = open_store(str(tmp_path / "new"))
    assert isinstance(looked(moved), str)
    for _ in range(2):
        links, warnings = track(moved, TrackingSpec(), rows())
        assert links
        assert not warnings
        assert runs_in(tmp_path / "new") == before
    assert [path.name for path in tmp_path.iterdir()] == ["new"]

    shutil.copytree(tmp_path / "new", tmp_path / "copy")
    (tmp_path / "copy" / "job.json").write_bytes(record(tmp_path / "copy", "of its own"))
    _artifact_repos_cache.clear()
    links, warnings = track(open_store(str(tmp_path / "copy")), TrackingSpec(), rows())
    assert links
    assert not warnings
    assert runs_in(tmp_path / "copy") == runs_in(tmp_path / "new") == before


def record(folder: Path, key: str = "0123456789abcdef") -> bytes:
    return json.dumps({"job": {"manifest": "t.csv"}, "folder": str(folder), "tracking_key": key}).encode()


def test_a_copy_has_runs_of_its_own_and_a_moved_folder_the_same_ones(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    create_database(tmp_path / "shared.db")  # stands for a server: it is in no output folder
    spec = TrackingSpec(uri=f"sqlite:///{tmp_path}/shared.db")
    store = folder_with_covers(tmp_path / "a", database=False)
    store.write("job.json", record(tmp_path / "a"))
    client = MlflowClient(spec.uri)

    def runs() -> dict[str, str]:
        found = client.search_runs([client.get_experiment_by_name("songs").experiment_id])
        jobs = [run for run in found if run.data.tags["restyle.kind"] == "job"]
        return {run.info.run_id: run.data.tags["restyle.output"] for run in jobs}

    track(store, spec, rows())
    (first,) = runs()
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    track(open_store(str(tmp_path / "copy")), spec, rows())
    assert runs()[first] == str(tmp_path / "a")
    assert sorted(runs().values()) == [str(tmp_path / "a"), str(tmp_path / "copy")]
    (tmp_path / "a").rename(tmp_path / "b")
    track(open_store(str(tmp_path / "b")), spec, rows())
    assert runs()[first] == str(tmp_path / "b")
    assert len(runs()) == 2


def test_artifacts_that_were_left_behind_stay_known(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    store = folder_with_covers(tmp_path / "out", database=False)
    create_database(tmp_path / "x" / "runs.db")
    track(store, TrackingSpec(uri=f"sqlite:///{tmp_path}/x/runs.db"), rows())
    (tmp_path / "y").mkdir()
    (tmp_path / "x" / "runs.db").rename(tmp_path / "y" / "runs.db")
    client = MlflowClient(f"sqlite:///{tmp_path}/y/runs.db")
    track(store, TrackingSpec(uri=f"sqlite:///{tmp_path}/y/runs.db"), rows())
    (experiment,) = [found for found in client.search_experiments() if found.name == "songs"]
    assert experiment.artifact_location == (tmp_path / "x" / "mlartifacts").as_uri()


def test_artifacts_that_moved_with_a_shared_database_are_found(tmp_path: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

    store = folder_with_covers(tmp_path / "out", database=False)
    create_database(tmp_path / "x" / "runs.db")
    track(store, TrackingSpec(uri=f"sqlite:///{tmp_path}/x/runs.db"), rows())
    (tmp_path / "x").rename(tmp_path / "y")
    _artifact_repos_cache.clear()  # as in another process
    track(store, TrackingSpec(uri=f"sqlite:///{tmp_path}/y/runs.db"), rows())
    client = MlflowClient(f"sqlite:///{tmp_path}/y/runs.db")
    experiment = client.get_experiment_by_name("songs")
    assert experiment.artifact_location == (tmp_path / "y" / "mlartifacts").as_uri()
    assert all(client.list_artifacts(run.info.run_id) for run in client.search_runs([experiment.experiment_id]))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "place",
    [
        *(
            "s3://bucket/team/mlartifacts",
            "mlflow-artifacts:/mlartifacts",
            "mlartifacts",
        ),
        *("file://{folder}/other/mlartifacts", "file://{folder}/gone/mlartifacts", "{folder}/gone/mlartifacts"),
    ],
)
def test_artifacts_of_others_are_left_where_they_are(place: str, whole: bool, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    place = place.format(folder=tmp_path)
    create_database(tmp_path / "db" / "mlflow.db")
    (tmp_path / "db" / "mlartifacts").mkdir()
    (tmp_path / "other" / "mlartifacts").mkdir(parents=True)
    client = MlflowClient(f"sqlite:///{tmp_path}/db/mlflow.db")
    theirs = client.create_experiment("theirs", artifact_location=place)
    run = client.create_run(theirs).info
    (tmp_path / "db" / "mlartifacts" / run.run_id).mkdir()
    before = client.get_experiment(theirs).artifact_location, client.get_run(run.run_id).info.artifact_uri
    assert relocate(tmp_path / "db" / "mlflow.db", whole) == []
    assert before == (
        client.get_experiment(theirs).artifact_location,
        client.get_run(run.run_id).info.artifact_uri,
    )


@pytest.mark.parametrize(
    "place", ["s3://bucket/mlartifacts", "mlflow-artifacts:/mlartifacts", "file://{}/mlartifacts"]
)
def test_artifacts_of_ours_that_are_still_elsewhere_are_left_there(place: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    create_database(tmp_path / "db" / "runs.db")
    (tmp_path / "other" / "mlartifacts").mkdir(parents=True)
    client = MlflowClient(f"sqlite:///{tmp_path}/db/runs.db")
    ours = client.create_experiment("songs", artifact_location=place.format(tmp_path / "other"))
    run = client.create_run(ours, tags={"restyle.output": "/out", "restyle.key": "k"}).info.run_id
    (tmp_path / "db" / "mlartifacts" / run).mkdir(parents=True)
    before = client.get_experiment(ours).artifact_location
    relocate(tmp_path / "db" / "runs.db", whole=False)
    assert client.get_experiment(ours).artifact_location == before


def test_the_address_opens_on_the_runs(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    store = folder_with_covers(tmp_path / "out")
    links, _ = track(store, TrackingSpec(), rows())
    client = MlflowClient(f"sqlite:///{store.root}/mlflow.db")
    experiment = client.get_experiment_by_name("songs")
    page = f"/#/experiments/{experiment.experiment_id}?workflowType=machine_learning"
    assert links["runs"] == f"http://127.0.0.1:5000{page}"
    assert "mlflow ui --backend-store-uri" in links["ui"]
    (job,) = client.search_runs([experiment.experiment_id], "tags.`restyle.kind` = 'job'")
    assert links["runs"] in job.data.tags["mlflow.note.content"]


def test_a_run_of_an_earlier_version_keeps_its_names_up_to_date(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    store = folder_with_covers(tmp_path / "out")
    track(store, TrackingSpec(), rows(1))
    client = MlflowClient(f"sqlite:///{store.root}/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name == "songs"]
    (job,) = client.search_runs([experiment.experiment_id], "tags.`restyle.kind` = 'job'")
    assert job.data.metrics.keys().isdisjoint({"covers_ok", "cover/ok", "time/gpu_s"})
    client.log_metric(job.info.run_id, "covers_ok", 2)
    track(store, TrackingSpec(), rows(2))
    metrics = client.get_run(job.info.run_id).data.metrics
    assert metrics["covers_ok"] == metrics["covers_made"] == 4


def test_what_a_launch_writes_down_of_its_tracker(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out"))
    tracking = TrackingSpec(uri="http://user:secret@host:5000")
    job = RestyleJob("tracks.csv", str(tmp_path / "out"), {"seed": 1}, tracking=tracking)
    model = ModelFacts("demo", "f", True, "float32")
    pool = Pool(workers=1, most=1, gpus_per_worker=0, threads=1, cluster="local")
    keys = []
    for _ in range(2):
        write_job_file(job, store, model, pool, job.settings())
        keys.append(tracking_key(store, store.root))
        assert keys[-1] == read_record(store)["tracking_key"]
    assert keys[0] == keys[1]
    assert b"secret" not in store.read("job.json")
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = open_store(str(tmp_path / "moved"))
    assert tracking_key(moved, moved.root) == keys[0]
    write_job_file(job, store, model, pool, job.settings())  # another folder in the old place
    assert tracking_key(store, store.root) != keys[0]
    assert tracking_key(moved, moved.root) == keys[0]
    store.write("job.json", b'{"cut sh')
    write_job_file(job, store, model, pool, job.settings())
    assert tracking_key(store, store.root)
