"""Tracking URIs: validation, the files of a SQLite database, and links to MLflow's pages."""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from acestep.errors import RequestError
from acestep.redaction import redacted

DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
HOSTED = ("databricks", "databricks-uc", "uc")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
REMEDY = "set tracking.uri or MLFLOW_TRACKING_URI to sqlite:////path/to/mlflow.db, a database or http://host:port"
OFF = "tracking.enabled=false tracks nothing"
LOCAL_UI = "http://127.0.0.1:5000"


def sqlite_uri(path: str) -> str:
    """The URI of a database file with any characters in its path.

    SQLAlchemy unquotes the path, and MLflow creates the parent folder of the path as written in the URI. So all
    that follows the first quoted part is quoted, including slashes: the parent is then an existing folder.

    Raises:
        RequestError: the installed SQLAlchemy cannot express this path.
    """
    from sqlalchemy import make_url

    parts = path.split("/")
    first = next((k for k, part in enumerate(parts) if "%" in part or "?" in part), len(parts))
    quoted = "/".join([*parts[:first], quote("/".join(parts[first:]), safe="")])
    for written in (path, quoted):
        if make_url(f"sqlite:///{written}").database == path:
            return f"sqlite:///{written}"
    reason = f"SQLAlchemy cannot open {path}: a folder has '?' in its name"
    raise RequestError("unreachable", reason, "rename it, or install sqlalchemy>=2.1")


def sqlite_file(uri: str) -> Path | None:
    """The absolute path of a SQLite database; None for other trackers."""
    if not _scheme(uri).startswith("sqlite"):
        return None
    from sqlalchemy import make_url

    return Path(make_url(uri).database or "").absolute()


def local_path(uri: str) -> Path:
    """The path of a ``file:`` URI, or of a plain path."""
    return Path(unquote(urlsplit(uri).path) if uri.startswith("file:") else uri)


def checked(uri: str) -> str:
    """Validate a tracking URI, and return its normal form.

    Raises:
        RequestError: the URI cannot work, whatever the state of a server or a database.
    """
    scheme = _scheme(uri)
    engine = scheme.partition("+")[0]
    if engine in DATABASES:
        return _checked_database(uri, engine)
    if scheme in ("http", "https"):
        if not urlsplit(uri).hostname:
            raise _refused(uri, "names no host")
    elif uri in HOSTED or scheme in HOSTED or scheme in entry_points(group="mlflow.tracking_store").names:
        return uri
    elif scheme in ("", "file"):
        _check_file_store(uri)
    else:
        raise _refused(uri, f"MLflow knows no scheme {scheme!r}")
    return uri


def _checked_database(uri: str, engine: str) -> str:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    try:
        url = create_engine(uri).url
    except ModuleNotFoundError as error:
        raise _refused(uri, f"the database driver {error.name!r} is not installed", _driver(error)) from error
    except (SQLAlchemyError, ValueError) as error:
        raise _refused(uri, " ".join(str(error).split())) from error
    if engine != "sqlite":
        return uri
    if url.host or not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise _refused(uri, "names no database file")
    return uri if url.query else sqlite_uri(str(Path(url.database).absolute()))


def _driver(error: ModuleNotFoundError) -> str:
    package = {"psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}.get(error.name or "", error.name)
    return f"python -m pip install {package}"


def _check_file_store(uri: str) -> None:
    if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
        raise _refused(
            uri,
            "MLflow 3 no longer writes runs to a folder of files",
            "set tracking.uri=sqlite:////path/to/mlflow.db (`mlflow migrate-filestore` converts a folder), or "
            "MLFLOW_ALLOW_FILE_STORE=true to use the folder all the same",
        )


def _refused(uri: str, reason: str, remedy: str = REMEDY) -> RequestError:
    return RequestError("invalid_value", f"tracking URI {redacted(uri)}: {reason}", f"{remedy}; {OFF}")


def _scheme(uri: str) -> str:
    return uri.partition(":")[0].lower() if ":" in uri else ""


def links(uri: str, experiment: str, runs: Sequence[str]) -> dict[str, str]:
    """Links: ``ui``, the command that starts MLflow's pages where no server runs; ``runs``, the page of an
    experiment's runs; ``compare``, the page that compares some runs.

    Without ``workflowType`` MLflow 3 opens an experiment on its traces, which are empty.
    """
    is_server = uri.startswith("http")
    base = _without_user(uri).rstrip("/") if is_server else LOCAL_UI
    command = (os.path.relpath(sys.executable), "-m", "mlflow", "ui", "--backend-store-uri", redacted(uri))
    compared = quote(json.dumps(list(runs), separators=(",", ":")))
    return ({} if is_server else {"ui": shlex.join(command)}) | {
        "runs": f"{base}/#/experiments/{experiment}?workflowType=machine_learning",
        "compare": f"{base}/#/compare-runs?runs={compared}&experiments={quote(json.dumps([experiment]))}",
    }


def _without_user(uri: str) -> str:
    return redacted(uri).replace("***@", "", 1)
