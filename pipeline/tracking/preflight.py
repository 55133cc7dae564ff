"""Checks a tracker without creating anything in it."""

import os
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from acestep.redaction import redacted
from pipeline.tracking.faults import ARTIFACT_STORE, TrackerError, fault_of, in_words, status_fault
from pipeline.tracking.uri import ARTIFACTS, local_path, sqlite_file

if TYPE_CHECKING:
    from mlflow.entities import Experiment

KNOCK_S = 5.0
LOCK_S = 20.0  # MLflow's own timeout for locks


def check_experiment(uri: str, experiment: str) -> str:
    """Check a tracker and its experiment; returns a description.

    Raises:
        TrackerError: the tracker does not accept runs.
    """
    try:
        there, file = check(uri), sqlite_file(uri)
        if file is not None:
            check_place(file.parent / ARTIFACTS, "name another database in tracking.uri")
        if not there:
            return f"{redacted(uri)}, will be created"
        from mlflow import MlflowClient

        found = usable(MlflowClient(uri).get_experiment_by_name(experiment), uri)
    except Exception as error:
        raise fault_of(error, uri) from error
    return f"{redacted(uri)}, experiment {experiment} " + ("is there" if found else "will be created")


def check(uri: str) -> bool:
    """Check that a tracker is usable; False if its database or its tables do not exist yet.

    Raises:
        Exception: it is not usable; ``fault_of`` gives the meaning.
    """
    if uri.startswith("http"):
        check_reachable(uri)
        return True
    if uri.startswith(("sqlite", "postgresql", "mysql", "mssql")):
        return check_database(uri)
    return uri.startswith("databricks") or Path(uri.removeprefix("file://")).exists()


def check_reachable(uri: str) -> None:
    """Check that a server answers, with a single short request; MLflow's own calls retry and wait longer.

    Raises:
        TrackerError: it does not answer in time, or is not an MLflow server.
    """
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    creds = get_default_host_creds(uri)
    try:
        answer = http_request(creds, "/health", "GET", max_retries=0, timeout=KNOCK_S, raise_on_status=False)
    except Exception as error:
        fault = fault_of(error, uri)
        reason = f"no answer within {KNOCK_S:g} s: {fault.reason}" if fault.heals else fault.reason
        raise TrackerError(reason, fault.remedy, fault.heals) from error
    if answer.history and urlsplit(answer.url)[:2] != urlsplit(uri)[:2]:
        raise TrackerError(
            f"it redirects to {answer.url}", "give the address that it redirects to, or one without"
        )
    if answer.status_code not in (200, 404):  # some proxies pass on the API alone
        said = in_words(Exception(answer.text or answer.reason))
        raise status_fault(answer.status_code, f"it answers {answer.status_code}: {said}")


def check_database(uri: str) -> bool:
    """Check that a database is writable and has this MLflow's tables; False if it has none yet.

    Raises:
        TrackerError: the tables are of another version.
        Exception: the database refuses the connection.
    """
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.pool import NullPool

    file = sqlite_file(uri)
    if file is not None and not file.exists():
        check_place(file.parent, "name another database in tracking.uri")
        return False
    if file is not None and not os.access(file, os.R_OK | os.W_OK):
        raise TrackerError(f"{file} may not be read and written", "change its owner or its permissions")
    waits = {} if file is None else {"timeout": LOCK_S}
    engine = create_engine(uri, poolclass=NullPool, connect_args=waits)
    with engine.connect() as connection:
        if file is not None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # takes the write lock without writing
        version = MigrationContext.configure(connection).get_current_revision()
        if version is None:
            return False
        check_version(version, uri)
        return "experiments" in inspect(connection).get_table_names()


def check_version(version: str, uri: str) -> None:
    """Check that a database schema is the installed MLflow's.

    Raises:
        TrackerError: it is another version's.
    """
    import mlflow
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    if version == script.get_current_head():
        return
    reason = f"its database schema is {version}, and MLflow {mlflow.__version__} needs {script.get_current_head()}"
    if version in {revision.revision for revision in script.walk_revisions()}:
        raise TrackerError(
            reason, f"copy the database, then run `python -m mlflow db upgrade {quote(redacted(uri))}`"
        )
    raise TrackerError(reason, "install the newer MLflow that wrote it, or name another database in tracking.uri")


def check_place(folder: Path, remedy: str) -> None:
    """Check that a folder, which need not exist, is writable.

    Raises:
        TrackerError: it is not.
    """
    above = next(place for place in (folder, *folder.parents) if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise TrackerError(f"{above} is no folder that can be written to", f"make it one, or {remedy}")


def usable(experiment: "Experiment | None", uri: str) -> "Experiment | None":
    """An experiment that accepts runs, or None.

    Raises:
        TrackerError: the experiment was deleted, or its local artifact folder is not writable on this machine.
    """
    if experiment is None:
        return None
    name, number, place = experiment.name, experiment.experiment_id, experiment.artifact_location
    if experiment.lifecycle_stage == "deleted":
        restore = f"MLFLOW_TRACKING_URI={quote(redacted(uri))} python -m mlflow experiments restore -x {number}"
        raise TrackerError(
            f"the experiment {name!r} ({number}) was deleted, and its name stays taken",
            f"restore it with `{restore}`, or name another with tracking.experiment=NAME",
        )
    if uri.startswith("http") and place.startswith(("/", "file:")):
        check_place(local_path(place), ARTIFACT_STORE)
    return experiment
