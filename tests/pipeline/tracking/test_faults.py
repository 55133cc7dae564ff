"""Trackers that do not take runs, as real databases: what is said of each."""

import os
import shlex
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from rich.console import Console

from acestep.errors import RequestError
from pipeline.storage.store import Store, open_store
from pipeline.tracking.faults import TrackerError, fault_of
from pipeline.tracking.spec import TrackingSpec
from pipeline.tracking.tracker import Tracker
from pipeline.tracking.uri import checked, sqlite_file, sqlite_uri
from pipeline.workflows.console import ConsoleReporter
from pipeline.workflows.restyle import run as restyle
from pipeline.workflows.specs import RestyleJob, TuneSpec
from pipeline.workflows.tune import tune_catalogue
from tests.pipeline.tracking.folders import folder_with_covers, looked, refusal
from tests.pipeline.tracking.test_tracker import rows, track


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("./mlruns", "MLFLOW_ALLOW_FILE_STORE=true"),
        ("file:///tmp/mlruns", "MLFLOW_ALLOW_FILE_STORE=true"),
        ("foo://host/x", "no scheme 'foo'"),
        ("localhost:5000", "no scheme 'localhost'"),
        ("http://", "names no host"),
        ("sqlite://mlflow.db", "Invalid SQLite URL"),
        ("sqlite:///:memory:", "names no database file"),
        ("sqlite:///", "names no database file"),
        ("nosql+odd://x", "no scheme 'nosql+odd'"),
        ("mssql+pymssql://user:secret@host/runs", "driver 'pymssql' is not installed"),
        ("postgresql+nodriver://user:secret@host/runs", "nodriver"),
    ],
)
def test_what_can_never_work_is_refused_before_anything_starts(uri: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as refused:
        Tracker(TrackingSpec(uri=uri), "songs", open_store(str(tmp_path)), str(tmp_path))
    assert reason in str(refused.value)
    assert "tracking.enabled=false" in str(refused.value)
    assert "secret" not in str(refused.value)
    Tracker(TrackingSpec(enabled=False, uri=uri), "songs", open_store(str(tmp_path)), str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_no_cover_is_made_for_a_tracker_that_can_never_work(tmp_path: Path) -> None:
    manifest = tmp_path / "tracks.csv"
    manifest.write_text("track_id,source,caption\na,a.wav,jazz\n")
    job = RestyleJob(str(manifest), str(tmp_path / "out"), {"seed": 1}, tracking=TrackingSpec(uri="./mlruns"))
    with pytest.raises(RequestError, match="MLFLOW_ALLOW_FILE_STORE"):
        tune_catalogue(job, TuneSpec(), ConsoleReporter(Console()), pytest.fail)
    with pytest.raises(RequestError, match="MLFLOW_ALLOW_FILE_STORE"):
        restyle(job, ConsoleReporter(Console()))
    assert [path.name for path in tmp_path.iterdir()] == ["tracks.csv"]


def test_a_folder_of_files_is_taken_by_who_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = folder_with_covers(tmp_path / "out", database=False)
    assert "will be created" in looked(store, str(tmp_path / "mlruns"))
    links, warnings = track(store, TrackingSpec(uri=str(tmp_path / "mlruns")), rows())
    assert not warnings
    assert links["runs"]


def test_an_empty_address_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    tracker = Tracker(TrackingSpec(uri=" "), "songs", open_store(str(tmp_path)), str(tmp_path))
    assert tracker.uri == f"sqlite:///{tmp_path}/mlflow.db"


NAMES = ("out%20a?x=1", "100%", "%", "my out", "a#b", "ünï 日本", "a@b:c", "a&b;c+d", "new\nline", "a?b/c%2Fd/e f")


@pytest.mark.parametrize("name", NAMES)
def test_no_name_of_a_folder_moves_its_database(name: str, tmp_path: Path) -> None:
    file = tmp_path / name / "mlflow.db"
    assert sqlite_file(sqlite_uri(str(file))) == file
    # MLflow creates the parent folder of the address as it is written.
    written = Path(sqlite_uri(str(file)).removeprefix("sqlite:///"))
    assert written.parent in file.parents
    if "?" not in name:
        quoted = "sqlite:///" + quote(str(file))
        assert sqlite_file(checked(quoted)) == file


@pytest.mark.parametrize("name", ["out%20a?x=1", "ünï #1"])
def test_runs_and_artifacts_are_in_the_folder_whatever_its_name(name: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    store = folder_with_covers(tmp_path / name)
    assert isinstance(looked(store), str)
    links, warnings = track(store, TrackingSpec(), rows())
    assert not warnings
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(list((tmp_path / name / "mlartifacts").rglob("results.parquet"))) == 1
    client = MlflowClient(sqlite_uri(f"{store.root}/mlflow.db"))
    for run in client.search_runs([client.get_experiment_by_name("songs").experiment_id]):
        assert client.list_artifacts(run.info.run_id)
    assert links["ui"].endswith(("mlflow.db", "mlflow.db'"))


def test_a_deleted_experiment_is_restored_by_the_command_that_is_said(tmp_path: Path) -> None:
    from click.testing import CliRunner
    from mlflow import MlflowClient
    from mlflow.cli import cli

    store = folder_with_covers(tmp_path / "my out")
    client = MlflowClient(f"sqlite:///{store.root}/mlflow.db")
    client.delete_experiment(client.create_experiment("songs", artifact_location=f"{tmp_path}/my out/mlartifacts"))
    fault, _ = refusal(store)
    assert not fault.heals
    assert isinstance(looked(store, experiment="others"), str)  # the other remedy
    assignment, python, m, mlflow, *command = shlex.split(fault.remedy.split("`")[1])
    assert (python, m, mlflow) == ("python", "-m", "mlflow")
    done = CliRunner().invoke(cli, command, env=dict([assignment.split("=", 1)]))
    assert done.exit_code == 0, done.output
    links, warnings = track(store, TrackingSpec(), rows())
    assert links
    assert not warnings


@pytest.mark.parametrize(
    ("version", "remedy"), [("7d34483879f0", "mlflow db upgrade"), ("f" * 12, "newer MLflow")]
)
def test_a_database_of_another_version(version: str, remedy: str, tmp_path: Path) -> None:
    store = folder_with_covers(tmp_path / "out")
    with change(store) as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (version,))
    fault, _ = refusal(store)
    assert version in fault.reason
    assert remedy in fault.remedy
    assert not fault.heals


@contextmanager
def change(store: Store) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"{store.root}/mlflow.db")) as database, database:
        yield database


def test_a_locked_database_is_waited_for_and_then_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tracking.preflight.LOCK_S", 0.2)
    store = folder_with_covers(tmp_path / "out")
    with change(store) as database:
        database.execute("BEGIN IMMEDIATE")
        fault, _ = refusal(store)
        database.rollback()
    assert fault.heals
    assert "locked" in fault.reason
    links, warnings = track(store, TrackingSpec(), rows())
    assert links
    assert not warnings


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
@pytest.mark.parametrize("name", ["mlflow.db", "."])
def test_what_may_not_be_written(name: str, tmp_path: Path) -> None:
    store = folder_with_covers(tmp_path / "out")
    (tmp_path / "out" / name).chmod(0o500)
    fault = looked(store)
    links, warnings = track(store, TrackingSpec(), rows())
    (tmp_path / "out" / name).chmod(0o700)
    assert isinstance(fault, TrackerError)
    assert not fault.heals
    assert links == {}
    assert "until that is done, the same command cannot track" in warnings[-1]


def garbage(store: Store) -> None:
    Path(store.root, "mlflow.db").write_bytes(b"no database " * 1000)


def folder_in_its_place(store: Store) -> None:
    Path(store.root, "mlflow.db").unlink()
    Path(store.root, "mlflow.db").mkdir()


def artifacts_that_are_a_file(store: Store) -> None:
    Path(store.root, "mlartifacts").write_text("in the way")


@pytest.mark.parametrize("damage", [garbage, folder_in_its_place, artifacts_that_are_a_file])
def test_what_a_person_has_to_mend(damage: Callable[[Store], None], tmp_path: Path) -> None:
    store = folder_with_covers(tmp_path / "out")
    damage(store)
    fault = looked(store)
    assert isinstance(fault, TrackerError)
    assert not fault.heals
    links, warnings = track(store, TrackingSpec(), rows())
    assert links == {}
    assert "until that is done, the same command cannot track" in warnings[-1]


def test_a_full_disk_is_away(tmp_path: Path) -> None:
    from sqlalchemy import create_engine, text

    store = folder_with_covers(tmp_path / "out")
    uri = f"sqlite:///{store.root}/mlflow.db"
    with create_engine(uri).connect() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar()
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))
        with pytest.raises(Exception, match="full") as full:
            connection.execute(text("CREATE TABLE more AS SELECT zeroblob(1000000) AS content"))
    fault = fault_of(full.value, uri)
    assert fault.heals
    assert fault.remedy == "make room"
    assert fault_of(OSError(28, "No space left on device"), uri).heals
