"""Tracker faults: the reason, whether it is temporary, and the remedy."""

import errno
import html
import re
import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING

from acestep.redaction import redacted, without_secrets

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException

CREDENTIALS = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to an account that may "
    "write to the experiment"
)
NOT_MLFLOW = "give the address of an MLflow server as tracking.uri, with the prefix of its path where it has one"
CERTIFICATE = (
    "set MLFLOW_TRACKING_SERVER_CERT_PATH to the server's CA certificate, or write http:// where it has none"
)
DAMAGED = "move the file away and run the same command, which writes the runs of this folder to a new one"
ARTIFACT_STORE = (
    "give this machine access to the server's artifact store, or start the server with --artifacts-destination "
    "and name a new experiment with tracking.experiment=NAME"
)
ROOM, LOG = "make room", "look into the server's log if that does not pass"
FULL = (errno.ENOSPC, errno.EDQUOT)
# Patterns of database messages: whether the fault is temporary, and the remedy.
DATABASE_FAULTS: tuple[tuple[str, bool, str], ...] = (
    ("database is locked", True, "end the process that holds it, if it does not end by itself"),
    ("is full", True, ROOM),
    ("readonly database", False, "make the database file and its folder writable"),
    ("unable to open database file", False, "make the database file and its folder readable and writable"),
    ("not a database|malformed", False, DAMAGED),
    ("no such table|no such column|UndefinedTable", False, DAMAGED),
    (
        "password authentication failed|Access denied|Login failed",
        False,
        "correct user and password in tracking.uri",
    ),
    ("database .* does not exist|Unknown database", False, "create the database, or name another in tracking.uri"),
    ("permission denied", False, "grant the user the right to write, or name another in tracking.uri"),
)
AWAY_STATUS = {408, 429, 500, 502, 503, 504}


class TrackerError(Exception):
    """A tracker does not accept runs.

    remedy: what to do, as an imperative; "" if the reason is unknown.
    heals: whether the fault may disappear without a change to this job.
    """

    def __init__(self, reason: str, remedy: str, heals: bool = False):
        reason, remedy = without_secrets(reason), without_secrets(remedy)
        super().__init__(f"{reason}; {remedy}" if remedy else reason)
        self.reason, self.remedy, self.heals = reason, remedy, heals


def fault_of(error: Exception, uri: str) -> TrackerError:
    """The fault behind an error of MLflow, of a database or of the file system; its reason is a single line."""
    meanings = filter(None, (_meaning(cause, uri) for cause in chain(error)))
    found = error if isinstance(error, TrackerError) else next(meanings, TrackerError(in_words(error), ""))
    return TrackerError(
        found.reason.replace(uri, redacted(uri)), found.remedy.replace(uri, redacted(uri)), found.heals
    )


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, the root cause first."""
    inner = error.__cause__ or error.__context__
    if inner is not None:
        yield from chain(inner)
    yield error


def in_words(error: BaseException) -> str:
    """The whole message on one line; of an HTML page its text."""
    text = str(error) or type(error).__name__
    if re.search(r"<html|<!doctype", text, re.IGNORECASE):
        text = re.sub(r"<(script|style).*?</\1>", " ", text, flags=re.IGNORECASE | re.DOTALL)
        text = html.unescape(re.sub(r"<[^>]*>", " ", text))
    return " ".join(text.split())


def status_fault(status: int, said: str) -> TrackerError:
    """The fault behind an HTTP error status."""
    if status in AWAY_STATUS:
        return TrackerError(said, LOG, heals=True)
    if "Host header" in said:
        return TrackerError(said, "start the server with --allowed-hosts naming the host in tracking.uri")
    return TrackerError(said, CREDENTIALS if status in (401, 403) else NOT_MLFLOW)


def _meaning(error: BaseException, uri: str) -> TrackerError | None:
    """The fault behind one error of a chain; None if another error says more."""
    from mlflow.exceptions import MlflowException
    from requests import exceptions as http
    from sqlalchemy.exc import SQLAlchemyError

    match error:
        case SQLAlchemyError() | sqlite3.Error():
            return _database_fault(in_words(getattr(error, "orig", None) or error))
        case http.SSLError():
            return TrackerError(_first(error), CERTIFICATE)
        case http.RetryError():
            return TrackerError(in_words(error), LOG, heals=True)
        case http.ConnectionError() | http.Timeout():
            return TrackerError(_first(error), "see that the server runs and that its name is right", heals=True)
        case http.RequestException():
            return TrackerError(_first(error), NOT_MLFLOW)
        case ModuleNotFoundError():
            return TrackerError(in_words(error), f"install it: python -m pip install {error.name}")
        case OSError() if error.errno in FULL:
            return TrackerError(in_words(error), ROOM, heals=True)
        case PermissionError() | NotADirectoryError():
            return TrackerError(in_words(error), f"make {error.filename or 'it'} a place that can be written to")
        case OSError() if error.errno == errno.EROFS:
            return TrackerError(in_words(error), f"make {error.filename or 'it'} a place that can be written to")
        case Exception() if type(error).__module__.startswith("botocore"):
            refused = re.search("credential|denied|forbidden|invalid|no such bucket", str(error), re.IGNORECASE)
            return TrackerError(in_words(error), ARTIFACT_STORE, heals=refused is None)
        case MlflowException() if uri.startswith("http"):
            return _rest_fault(error)
    return None


def _first(error: BaseException) -> str:
    return in_words(next(chain(error)))


def _database_fault(said: str) -> TrackerError:
    for pattern, heals, remedy in DATABASE_FAULTS:
        if re.search(pattern, said, re.IGNORECASE):
            return TrackerError(said, remedy, heals)
    return TrackerError(said, "see that the database runs and that tracking.uri names it", heals=True)


def _rest_fault(error: "MlflowException") -> TrackerError | None:
    """The fault behind an MLflow error; None if the server rejected this particular call only."""
    from mlflow.exceptions import RestException

    said = in_words(error)
    answered = re.search(r"failed with error code (\d+)", said)  # MLflow has no error code for some statuses
    status = int(answered[1]) if answered else error.get_http_status_code()
    if "not in a valid JSON format" in said:
        return TrackerError(said, NOT_MLFLOW)
    if isinstance(error, RestException) and status in (400, 404, 409):
        return None
    return status_fault(status, said)
