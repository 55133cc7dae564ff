"""Sources of other hosts: which are asked, what they may answer, and what is told of them."""

import http.server
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile

from acestep.audio.files import load_audio
from pipeline.service.config import Access, Limits
from pipeline.service.problem_details import ProblemError
from pipeline.service.source_access import admit
from pipeline.service.uploads import UploadStore
from pipeline.service.url_fetch import fetch
from tests.conftest import tone
from tests.pipeline.service.conftest import Served
from tests.refusals import raises

LIMITS = Limits(upload_mb=2.0, source_seconds=30.0, fetch_s=1.0)


class Remote(http.server.BaseHTTPRequestHandler):
    """A host that gives a song, and some that do not behave."""

    protocol_version = "HTTP/1.1"
    song = b""

    def do_GET(self) -> None:
        if self.path.startswith("/song"):
            self._start(200, {"Content-Length": str(len(self.song))})
            self.wfile.write(self.song)
        elif self.path == "/moved":
            self._start(302, {"Location": "http://169.254.169.254/", "Content-Length": "0"})
        elif self.path == "/absent":
            self._start(404, {"Content-Length": "0"})
        elif self.path == "/announced":
            self._start(200, {"Content-Length": str(1 << 40)})
        elif self.path == "/endless":
            self._start(200, {})
            while self._wrote(bytes(1 << 16)):
                pass
        elif self.path == "/dripping-head":
            while self._wrote(b"HTTP/1.1 200 OK\r\nX: " if not self.close_connection else b"a"):
                self.close_connection = True
                time.sleep(0.1)
        elif self.path == "/cut":
            self._start(200, {"Content-Length": str(len(self.song) + 1)})
            self.wfile.write(self.song)
        elif self.path == "/dripping":
            self._start(200, {"Content-Length": "1000"})
            while self._wrote(b"R"):
                time.sleep(0.1)

    def _start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True

    def _wrote(self, content: bytes) -> bool:
        try:
            return bool(self.wfile.write(content))
        except OSError:
            return False

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def remote() -> Iterator[str]:
    content = io.BytesIO()
    soundfile.write(content, tone(1.0), 48_000, format="WAV")
    Remote.song = content.getvalue()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Remote)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def test_a_listed_host_gives_a_source(remote: str, uploads: UploadStore) -> None:
    access = Access(url_hosts=(remote,))
    found = admit("src_audio", f"http://{remote}/song.wav?token=1", access, LIMITS, uploads)
    assert found.duration_s == pytest.approx(1.0)
    assert load_audio(io.BytesIO(Path(found.uri).read_bytes())).shape[1] == 48_000


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/moved", 422, "another address"),
        ("/absent", 422, "answers 404"),
        ("/announced", 413, "larger than"),
        ("/endless", 413, "larger than"),
        ("/dripping", 422, "took longer than 1 s"),
        ("/dripping-head", 422, "took longer than 1 s"),
        ("/cut", 422, "IncompleteRead"),
    ],
)
def test_hosts_that_do_not_behave(remote: str, uploads: UploadStore, path: str, status: int, said: str) -> None:
    began = time.monotonic()
    with (
        pytest.raises(ProblemError, match=said) as told,
        fetch("src_audio", f"http://{remote}{path}", [remote], LIMITS, uploads),
    ):
        pass
    assert told.value.status == status
    assert time.monotonic() - began < 3
    assert not list(Path(uploads.store.root).rglob("*"))


def test_a_name_that_leads_into_the_private_network_is_not_followed(remote: str, uploads: UploadStore) -> None:
    """The owner of a listed name may point it anywhere; an address that is listed is meant."""
    port = remote.rpartition(":")[2]
    with (
        raises(ProblemError, "not_allowed", remedy="send the file instead"),
        fetch("src_audio", f"http://localhost:{port}/song", [f"localhost:{port}"], LIMITS, uploads),
    ):
        pass
    for other in (f"127.0.0.1:{int(port) + 1}", "127.0.0.1", f"127.0.0.2:{port}"):
        with (
            raises(ProblemError, "not_allowed", remedy="access.url_hosts"),
            fetch("src_audio", f"http://{remote}/song", [other], LIMITS, uploads),
        ):
            pass


def test_a_name_is_asked_once_and_the_answer_is_what_is_connected_to(
    remote: str, uploads: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name whose owner changes its address between the check and the connection."""
    port = int(remote.rpartition(":")[2])
    asked: list[str] = []
    connected: list[tuple[str, int]] = []
    truly = socket.getaddrinfo

    def answers(host: str, *rest: Any, **named: Any) -> Any:
        if host != "music.example":
            return truly(host, *rest, **named)
        asked.append(host)
        address = "8.8.8.8" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def connects(address: tuple[str, int], timeout: float) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", answers)
    monkeypatch.setattr(socket, "create_connection", connects)
    with (
        pytest.raises(ProblemError, match="ConnectionRefusedError"),
        fetch("src_audio", f"http://music.example:{port}/song", [f"music.example:{port}"], LIMITS, uploads),
    ):
        pass
    assert (asked, connected) == (["music.example"], [("8.8.8.8", port)])


def test_a_host_that_is_away(uploads: UploadStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with (
        raises(ProblemError, "unreachable") as told,
        fetch("src_audio", f"http://127.0.0.1:{port}/a?secret=1", [f"127.0.0.1:{port}"], LIMITS, uploads),
    ):
        pass
    assert "secret" not in json.dumps(told.value.as_json())


@pytest.mark.parametrize(
    "address",
    [
        "https://elsewhere.example/a.wav?X-Amz-Signature=hunter2",
        "https://bob:hunter2@elsewhere.example/a.wav",
        "s3://key:hunter2@bucket/a.wav?token=hunter2",
        "nowhere://bob:hunter2@host/a.wav",
    ],
)
def test_a_reply_tells_no_secret_of_an_address(
    served: Served, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    reply = httpx.post(served.generations, json={"src_audio": address, "caption": "jazz"})
    assert reply.status_code == 422
    assert "hunter2" not in reply.text + str(reply.headers) + caplog.text
    assert "***" in reply.text
    files = [file for file in served.output.rglob("*") if file.is_file()]
    assert not [file for file in files if b"hunter2" in file.read_bytes()]
