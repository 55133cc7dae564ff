"""Tracking servers that do not take runs, as real sockets: what is said of each."""

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow.entities import Experiment

from acestep.redaction import redacted
from pipeline.tracking.faults import TrackerError, fault_of
from pipeline.tracking.preflight import usable
from pipeline.tracking.spec import TrackingSpec
from tests.pipeline.tracking.folders import folder_with_covers, looked, refusal
from tests.pipeline.tracking.test_tracker import rows, track


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
