"""Trackers that do not take runs, as real databases and real sockets: what is said of each."""

import http.server
import json
import os
import re
import shlex
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from mlflow.entities import Experiment
from rich.console import Console

from acestep.errors import RequestError
from acestep.redaction import redacted
from pipeline.cluster.pool import Pool
from pipeline.planning.items import ModelFacts
from pipeline.results.job_file import read_record, tracking_key
from pipeline.storage.store import Store, open_store
from pipeline.tracking.faults import TrackerError, fault_of
from pipeline.tracking.moved_artifacts import relocate
from pipeline.tracking.preflight import usable
from pipeline.tracking.spec import TrackingSpec
from pipeline.tracking.tracker import Tracker
from pipeline.tracking.uri import checked, sqlite_file, sqlite_uri
from pipeline.workflows.console import ConsoleReporter
from pipeline.workflows.job_record import write_job_file
from pipeline.workflows.restyle import run as restyle
from pipeline.workflows.specs import RestyleJob, TuneSpec
from pipeline.workflows.tune import tune_catalogue
from tests.mlflow_database import create_database
from tests.pipeline.tracking.test_tracker import rows, track


@pytest.fixture(autouse=True)
def _no_tracker_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)


def folder_with_covers(folder: Path, database: bool = True) -> Store:
    """An output folder with four covers and, unless told otherwise, a database without runs."""
    store = open_store(str(folder))
    for row in rows():
        store.write(row["audio_path"], b"fLaC")
    store.write("job.json", b'{"job": {"manifest": "tracks.csv"}}')
    if database:
        create_database(folder / "mlflow.db")
    return store


def looked(store: Store, uri: str | None = None, experiment: str | None = None) -> str | TrackerError:
    """What looking says, which leaves every file as it is."""
    before = contents(Path(store.root).parent)
    try:
        found: str | TrackerError = Tracker(
            TrackingSpec(uri=uri, experiment=experiment), "songs", store, store.root
        ).look()
    except TrackerError as error:
        found = error
    assert contents(Path(store.root).parent) == before
    return found


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


def refusal(store: Store, uri: str | None = None) -> tuple[TrackerError, str]:
    """What looking and the end of a job say of a tracker that does not take runs."""
    fault = looked(store, uri)
    assert isinstance(fault, TrackerError)
    links, warnings = track(store, TrackingSpec(uri=uri), rows())
    assert links == {}
    assert fault.reason in warnings[-1]
    assert fault.remedy in warnings[-1]
    assert ("once it does, the same command" in warnings[-1]) == fault.heals
    assert ("until that is done, the same command cannot" in warnings[-1]) == (not fault.heals)
    return fault, warnings[-1]


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

    from pipeline.tracking.faults import fault_of

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


@pytest.mark.parametrize(("name", "heals"), [("NoCredentialsError", False), ("EndpointConnectionError", True)])
def test_an_artifact_store_that_is_not_the_servers_own(name: str, heals: bool) -> None:
    exceptions = pytest.importorskip("botocore.exceptions")
    fault = fault_of(getattr(exceptions, name)(endpoint_url="https://s3"), "http://host")
    assert fault.heals == heals
    assert "--artifacts-destination" in fault.remedy


def test_a_server_that_leaves_artifacts_to_this_machine(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    experiment = Experiment("7", "songs", f"{tmp_path}/file/mlruns/7", "active")
    with pytest.raises(TrackerError) as fault:
        usable(experiment, "http://host")
    assert "--artifacts-destination" in fault.value.remedy
    assert usable(Experiment("7", "songs", f"{tmp_path}/mlruns/7", "active"), "http://host") is not None
    assert not (tmp_path / "mlruns").exists()


PAGE = "<!doctype html><html><head><style>x</style></head><body><h1>{}</h1><p>nginx</p></body></html>"
# What a server, or a proxy before it, answers to all but /health: status, type, body, whether it heals, remedy.
ANSWERS = {
    "unauthorized": (401, "text/plain", "You are not authenticated.", False, "MLFLOW_TRACKING_USERNAME"),
    "forbidden": (
        403,
        "application/json",
        '{"error_code": "PERMISSION_DENIED", "message": "no"}',
        False,
        "USERNAME",
    ),
    "host": (403, "text/plain", "Invalid Host header - possible DNS rebinding attack", False, "--allowed-hosts"),
    "other site": (404, "text/html", PAGE.format("Not Found"), False, "address of an MLflow server"),
    "login page": (200, "text/html", PAGE.format("Log in"), False, "address of an MLflow server"),
    "bad gateway": (502, "text/html", PAGE.format("Bad Gateway"), True, "server's log"),
    "broken": (500, "application/json", '{"error_code": "INTERNAL_ERROR", "message": "no disk"}', True, "log"),
    "busy": (429, "text/plain", "slow down", True, "server's log"),
    "closed": (405, "text/plain", "Method Not Allowed", False, "address of an MLflow server"),
}


@contextmanager
def answering(status: int, kind: str, body: str, health: int = 200) -> Iterator[str]:
    """The address of a server that gives everybody one answer."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(health if self.path == "/health" else status)
            self.send_header("Content-Type", kind)
            content = b"OK" if self.path == "/health" and health == 200 else body.encode()
            self.send_header("Content-Length", str(len(content)))
            if 300 <= status < 400:
                self.send_header("Location", body)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("name", ANSWERS)
def test_what_a_server_answers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    status, kind, body, heals, remedy = ANSWERS[name]
    store = folder_with_covers(tmp_path / "out", database=False)
    with answering(status, kind, body) as uri:
        fault, said = refusal(store, uri)
    assert fault.heals == heals
    assert remedy in fault.remedy
    assert "<" not in said
    assert "\n" not in said


def test_a_proxy_whose_server_is_down(tmp_path: Path) -> None:
    store = folder_with_covers(tmp_path / "out", database=False)
    with answering(502, "text/html", PAGE.format("Bad Gateway"), health=502) as uri:
        fault = looked(store, uri)
    assert isinstance(fault, TrackerError)
    assert fault.heals
    assert "it answers 502: Bad Gateway nginx" in fault.reason


def test_a_server_that_moved(tmp_path: Path) -> None:
    store = folder_with_covers(tmp_path / "out", database=False)
    with (
        answering(200, "text/html", PAGE.format("Log in")) as there,
        answering(302, "text/html", f"{there}/health", health=302) as uri,
    ):
        fault = looked(store, uri)
    assert isinstance(fault, TrackerError)
    assert not fault.heals
    assert f"redirects to {there}" in fault.reason


def test_what_does_not_answer_at_all(tmp_path: Path) -> None:
    store = folder_with_covers(tmp_path / "out", database=False)
    for uri, reason in (
        ("http://127.0.0.1:9", "Connection refused"),
        ("http://no-such-host.invalid:5000", "Failed to resolve|Name or service|name resolution|getaddrinfo"),
    ):
        fault = looked(store, uri)
        assert isinstance(fault, TrackerError)
        assert fault.heals
        assert re.search(reason, fault.reason)
    with answering(200, "text/plain", "OK") as uri:
        fault = looked(store, uri.replace("http:", "https:"))
    assert isinstance(fault, TrackerError)
    assert not fault.heals
    assert "http://" in fault.remedy


def test_a_password_is_not_printed(tmp_path: Path) -> None:
    store = folder_with_covers(tmp_path / "out", database=False)
    uri = "http://user:secret@127.0.0.1:9/base"
    assert redacted(uri) == "http://***@127.0.0.1:9/base"
    _, warnings = track(store, TrackingSpec(uri=uri), rows())
    assert "127.0.0.1:9" in warnings[-1]
    assert "secret" not in " ".join(warnings)


@pytest.mark.parametrize(
    ("uri", "masked"),
    [
        ("postgresql://host/db?user=u&password=hunter2", "postgresql://host/db?user=u&password=***"),
        ("mysql+pymysql://u:hunter2@host/db?ssl=1", "mysql+pymysql://***@host/db?ssl=1"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Du%3BPWD%3Dhunter2", "mssql+pyodbc:///?odbc_connect=***"),
        ("mssql+pyodbc:///?odbc_connect=UID=u;PWD=hunter2&x=1", "mssql+pyodbc:///?odbc_connect=***&x=1"),
        ("postgresql://host/db?sslpassword=hunter2%26#hunter2", "postgresql://host/db?sslpassword=***"),
        ("https://host/?X-Amz-Signature=hunter2&page=2", "https://host/?X-Amz-Signature=***&page=2"),
        ("https://host/?Access_Token=hunter2&sig=hunter2", "https://host/?Access_Token=***&sig=***"),
        ("sqlite:////home/my@pwd=token/mlflow.db?mode=rw", "sqlite:////home/my@pwd=token/mlflow.db?mode=rw"),
        ("http://host:5000/?workflow=key", "http://host:5000/?workflow=key"),
    ],
)
def test_passwords_in_a_query_are_not_printed(uri: str, masked: str) -> None:
    assert redacted(uri) == masked


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
