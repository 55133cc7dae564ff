"""Clients that send slowly, stop in the middle, take nothing or leave: what they cost others, and how they end."""

import asyncio
import json
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from pipeline.service import app
from pipeline.service import body_limits as intake
from pipeline.service import http_server as server
from pipeline.service.config import Limits
from tests.pipeline.service.conftest import KEYS, Served, serving

JSON = "POST /v1/audio/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
FORM = (
    "POST /v1/audio/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
)
PART = '--x\r\nContent-Disposition: form-data; name="src_audio"; filename="a.wav"\r\n\r\n'
HALF_BODY, HALF_FORM = f"{JSON}Content-Length: 100\r\n\r\n{{", f"{FORM}Content-Length: 90000\r\n\r\n{PART}RIFF"
LONG_BODY = '{"src_audio": "country_song.wav", "caption": "x", "inference_steps": 1000}'
LONG = f"{JSON}Content-Length: {len(LONG_BODY)}\r\n\r\n{LONG_BODY}"
SHORT = Limits(upload_mb=3.0, body_kb=200.0, header_s=1.0, idle_s=2.0, body_s=4.0)
Eventually = Callable[[Callable[[], object]], None]


@pytest.fixture(scope="module")
def patient(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that waits longer than any test."""
    limits = Limits(upload_mb=3.0, body_kb=200.0, header_s=600.0, idle_s=600.0, body_s=600.0)
    with serving(music, tmp_path_factory.mktemp("patient"), limits) as one:
        yield one


@pytest.fixture(scope="module")
def short(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(music, tmp_path_factory.mktemp("short"), SHORT, page=True) as one:
        yield one


@contextmanager
def connected(served: Served, said: str = "") -> Iterator[socket.socket]:
    """A client that sends something and waits."""
    host, port = served.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(said.encode())
        yield client


def rest(client: socket.socket) -> bytes:
    """All that a server still says before it closes."""
    content = b""
    try:
        while chunk := client.recv(1 << 16):
            content += chunk
    except ConnectionResetError:
        pass
    return content


def good(served: Served, **more: object) -> float:
    """Seconds that a good request takes which is refused for what it says."""
    began = time.monotonic()
    reply = httpx.post(served.generations, json={"caption": "x"} | more, timeout=20)
    assert (reply.status_code, reply.json()["error"]["field"]) == (422, "src_audio")
    return time.monotonic() - began


def test_half_sent_requests_change_nothing_for_others(patient: Served) -> None:
    began = {"alone": good(patient)}
    with ExitStack() as held:
        for said in (*[HALF_BODY] * 8, *[HALF_FORM] * 8, *["GET / HTTP/1.1\r\nHost: lo"] * 30, *[""] * 300):
            held.enter_context(connected(patient, said))
        time.sleep(0.5)
        began["beside them"] = good(patient)
        assert httpx.get(f"{patient.address}/health", timeout=20).status_code == 200
        content = (patient.music / "country_song.wav").read_bytes()
        sent = httpx.post(
            patient.generations,
            files={"src_audio": ("a.wav", content)},
            data={"caption": "x", "inference_steps": "1", "async": "true"},
            timeout=20,
        )
        assert sent.status_code == 202
    assert max(began.values()) < 5


UPLOAD = HALF_FORM.replace("/v1/audio/generations", "/cover/gradio_api/upload")
JOIN = HALF_BODY.replace("/v1/audio/generations", "/cover/gradio_api/queue/join")
GET = "GET /health HTTP/1.1\r\nHost: localhost\r\n"
CHUNKS = f"{FORM}Transfer-Encoding: chunked\r\n\r\n5\r\n--x\r\n\r\n"


def test_a_request_that_stops_is_ended(short: Served) -> None:
    began = time.monotonic()
    with ExitStack() as held:
        silent = held.enter_context(connected(short))
        begun = [
            held.enter_context(connected(short, said))
            for said in ("GET", f"{GET}X-A: ", HALF_BODY, HALF_FORM, CHUNKS, UPLOAD, JOIN)
        ]
        assert rest(silent) == b""
        for client in begun:
            head, _, body = rest(client).partition(b"\r\n\r\n")
            assert b" 408 " in head.partition(b"\r\n")[0]
            assert json.loads(body)["error"]["kind"] == "timeout"
    assert time.monotonic() - began < 15


def test_a_request_that_drips_is_ended(short: Served) -> None:
    """By the deadline of the header, of idleness (since it counts as idle), and of the body as a whole."""
    lasted: dict[float, list[float]] = {SHORT.header_s: [], SHORT.idle_s: [], SHORT.body_s: []}

    def drip(start: str, drop: bytes, within_s: float) -> None:
        began = time.monotonic()
        with connected(short, start) as client:
            while not select.select([client], [], [], 0.1)[0] and time.monotonic() - began < 20:
                client.sendall(drop)
            took = time.monotonic() - began
            if b" 408 " in client.recv(1000):
                lasted[within_s].append(took)

    drips = [
        (f"{GET}X-A: ", b"a", SHORT.header_s),
        (GET, b"A: b\r\n", SHORT.header_s),
        (f"{JSON}Content-Length: 100000\r\n\r\n", b" ", SHORT.idle_s),
        (f"{FORM}Content-Length: 90000\r\n\r\n{PART}", b"0", SHORT.idle_s),
        (f"{FORM}Content-Length: 2000000\r\n\r\n{PART}", b"0" * 2000, SHORT.body_s),
    ]
    threads = [threading.Thread(target=drip, args=one) for one in drips]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(times) for times in lasted.values()] == [2, 2, 1]
    assert all(0.9 * within_s < took < 15 for within_s, times in lasted.items() for took in times)


def test_a_body_that_nobody_reads_is_not_awaited(short: Served) -> None:
    with connected(short, f"{JSON.replace('json', 'xml')}Content-Length: 1000\r\n\r\n") as client:
        assert b" 415 " in client.recv(1 << 16)
        began = time.monotonic()
        try:
            while not select.select([client], [], [], 0.1)[0]:
                client.sendall(b"a")
                assert time.monotonic() - began < 20
        except (BrokenPipeError, ConnectionResetError):
            pass


def test_a_client_that_takes_no_reply_is_ended(short: Served, eventually: Eventually) -> None:
    """Also one that goes on asking."""
    before = len(short.server.server_state.connections)
    with connected(short) as client:
        client.setblocking(False)
        ask = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100
        eventually(lambda: len(short.server.server_state.connections) > before)
        sent = 0
        until = time.monotonic() + 20
        while time.monotonic() < until and sent < 1000 * len(ask):
            try:
                sent += client.send(ask)
            except BlockingIOError:
                break
            except ConnectionError:
                break
        eventually(lambda: len(short.server.server_state.connections) <= before)
    good(short)


def test_a_client_that_takes_a_reply_slowly_gets_all_of_it(short: Served) -> None:
    """Slower than the deadline for a reply as a whole, faster than a client that counts as gone."""
    with connected(short) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        content, until = b"", time.monotonic() + 2.5
        while time.monotonic() < until:
            content += client.recv(400)
            time.sleep(0.1)
        content += rest(client)
    assert json.loads(content.partition(b"\r\n\r\n")[2])["openapi"]


def test_an_old_connection_gives_way_to_a_new_one(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 20)
    with serving(music, tmp_path, Limits()) as served, ExitStack() as held:
        for said in [""] * 40 + [HALF_BODY] * 40:
            held.enter_context(connected(served, said))
        for _ in range(3):
            good(served)
        assert len(served.server.server_state.connections) <= 21


def test_streams_without_events_give_way_to_requests(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(server, "QUIET_S", 0.3)
    stream = "GET /cover/gradio_api/heartbeat/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with serving(music, tmp_path, Limits(), page=True) as served, ExitStack() as held:
        for _ in range(20):
            held.enter_context(connected(served, stream))
        time.sleep(1.5)
        for _ in range(3):
            good(served)


def test_requests_that_are_kept_open_are_counted(
    served: Served, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them want the same cover, which waits but once."""
    monkeypatch.setattr(app, "MAX_OPEN", 3)
    with ExitStack() as held:
        clients = [held.enter_context(connected(served, LONG)) for _ in range(6)]
        refused = select.select(clients, [], [], 10)[0]
        eventually(lambda: len(select.select(clients, [], [], 0)[0]) == 3)
        assert all(client.recv(1000).startswith(b"HTTP/1.1 429 ") for client in refused)
        later = httpx.post(served.generations, json=json.loads(LONG_BODY) | {"async": True}, timeout=20)
        assert later.status_code == 202
        httpx.delete(f"{served.address}{later.json()['url']}")
    eventually(lambda: served.admission.scheduler.busy == 0)


def test_bodies_that_stall_give_way_to_those_that_come(patient: Served) -> None:
    """Room for eight uploads of the largest size, taken by eight that never end."""
    max_bytes = int(patient.admission.spec.limits.upload_mb * 1e6)
    content = (patient.music / "country_song.wav").read_bytes()
    head = f"{FORM}Content-Length: {max_bytes}\r\n\r\n{PART}"
    with ExitStack() as held:
        stalled = [held.enter_context(connected(patient, head)) for _ in range(9)]
        for client in stalled:
            client.sendall(bytes(max_bytes - 10_000))
        time.sleep(intake.STALLED_S + 0.5)
        for _ in range(3):
            sent = httpx.post(
                patient.generations,
                files={"src_audio": ("a.wav", content)},
                data={"caption": "x", "inference_steps": "1", "async": "true"},
                timeout=20,
            )
            assert sent.status_code == 202
        ended = select.select(stalled, [], [], 1)[0]
        assert ended
        assert all(client.recv(1000).startswith((b"HTTP/1.1 408", b"HTTP/1.1 503")) for client in ended)


def test_a_client_that_leaves_costs_no_traceback(
    short: Served, patient: Served, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    eventually(lambda: not patient.server.server_state.tasks)  # clients of earlier tests
    caplog.set_level(logging.DEBUG, "pipeline.service.security_middleware")
    page, end = "/cover/gradio_api", " HTTP/1.1\r\nHost: localhost\r\n\r\n"
    sayings = [HALF_BODY, HALF_FORM, LONG, f"GET {page}/heartbeat/x{end}"]
    sayings += [HALF_FORM.replace("/v1/audio/generations", f"{page}/upload")]
    sayings += [HALF_BODY.replace("/v1/audio/generations", f"{page}/queue/join")]
    for said in sayings:
        with connected(short, said):
            time.sleep(0.2)
    eventually(lambda: not short.server.server_state.tasks)
    eventually(lambda: short.admission.scheduler.busy == 0)
    assert [record.message for record in caplog.records if record.levelno > logging.INFO] == []
    assert not any(record.exc_info for record in caplog.records)
    assert len([record for record in caplog.records if record.name.endswith("guard")]) <= len(sayings)


def test_a_stream_that_breaks_off_costs_a_line(short: Served, caplog: pytest.LogCaptureFixture) -> None:
    stream = "GET /cover/gradio_api/queue/data?session_hash=nobody HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(short, stream) as client:
        assert b"unexpected_error" in rest(client)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def test_a_state_is_told_from_memory(music: Path, tmp_path: Path) -> None:
    asked: list[float] = []

    async def ready() -> bool:
        asked.append(time.monotonic())
        await asyncio.sleep(0.5)
        return True

    with serving(music, tmp_path, Limits(), KEYS, ready=ready) as served, httpx.Client() as client:
        statuses = []
        began = time.monotonic()
        while not statuses or statuses[-1] != 200:
            statuses.append(client.get(f"{served.address}/health").status_code)
            assert time.monotonic() - began < 20
        asked_before = len(asked)
        replies: list[int] = []

        def one() -> None:
            replies.append(httpx.get(f"{served.address}/health", timeout=20).status_code)

        threads = [threading.Thread(target=one) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert replies == [200] * 50
        assert len(asked) - asked_before <= 1 + (time.monotonic() - began) / 0.5


def test_a_body_of_two_lengths_is_refused(patient: Served) -> None:
    with connected(
        patient, f"{JSON}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
    ) as client:
        assert b" 400 " in rest(client).partition(b"\r\n")[0]
